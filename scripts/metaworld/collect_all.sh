#!/usr/bin/env bash
# collect_all.sh DIR: the demonstrations that recipes/metaworld-tiny.yaml trains on, in DIR/clean, DIR/noisy and DIR/wander.
# About an hour on one core, with PYTHON or python3.
set -euo pipefail
out=${1:?collect_all.sh DIR}
collect() { "${PYTHON:-python3}" "$(dirname "$0")/collect.py" --cameras corner2,behindGripper --keys image,behind_gripper "$@"; }
collect --out "$out/clean" --episodes 50
collect --out "$out/noisy" --tasks reach-v3,push-v3,drawer-open-v3,button-press-v3 --episodes 350,250,50,50 \
  --seed 1 --noise 0,0.5 --stride 2 --crf 18
collect --out "$out/wander" --tasks reach-v3,push-v3 --episodes 150,100 --seed 31 --noise 0,0.3 --wander --stride 2 --crf 18
