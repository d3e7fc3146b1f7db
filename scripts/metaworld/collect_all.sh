#!/usr/bin/env bash
# The demonstrations that recipes train on, with PYTHON or python3. What is interrupted goes on by the same command.
#
#   collect_all.sh DIR               for metaworld-tiny.yaml: DIR/clean, DIR/noisy and DIR/wander, four tasks, an hour of one core
#   collect_all.sh DIR --tasks all   for metaworld-mt50.yaml: DIR/clean and DIR/noisy, all fifty tasks, five hours of one core
set -euo pipefail
out=${1:?collect_all.sh DIR [--tasks all]}
collect() {
  local folder=$out/$1
  shift
  [[ -e $folder ]] ||
    "${PYTHON:-python3}" "$(dirname "$0")/collect.py" --cameras corner2,behindGripper --keys image,behind_gripper --out "$folder" "$@"
}
case "${*:2}" in
  "")
    collect clean --episodes 50
    collect noisy --tasks reach-v3,push-v3,drawer-open-v3,button-press-v3 --episodes 350,250,50,50 \
      --seed 1 --noise 0,0.5 --stride 2 --crf 18
    collect wander --tasks reach-v3,push-v3 --episodes 150,100 --seed 31 --noise 0,0.3 --wander --stride 2 --crf 18
    ;;
  "--tasks all")
    collect clean --tasks all --episodes 20 --size 128 --stride 2 --max-steps 400
    collect noisy --tasks all --episodes 60 --size 128 --stride 2 --max-steps 400 --seed 1 --noise 0,0.5 --crf 18
    ;;
  *)
    echo "collect_all.sh DIR [--tasks all]: unknown \`${*:2}\`" >&2
    exit 2
    ;;
esac
