#!/usr/bin/env bash
# Fails when a stage of a prediction has become slower than 1.25 times what evo1-bench/gate.json holds, both counted in
# burn's own matrix product of the same run. EVO1 is the binary, by default the release build.
#
#     scripts/gate.sh            judge
#     scripts/gate.sh --store    measure what later runs are judged by
#
# Processors with other vectors than those of the stored run are not judged.
set -euo pipefail
cd "$(dirname "$0")/.."

evo1=${EVO1:-target/release/evo1} stored=evo1-bench/gate.json
[[ -x $evo1 ]] || cargo build --release --bin evo1
now=$(mktemp)
trap 'rm -f "$now"' EXIT
"$evo1" bench --preset evo1 --views 1 --steps 4 --repeat 3 --json >"$now"
if [[ ${1:-} == --store ]]; then
  cp "$now" "$stored"
else
  "$evo1" bench --compare "$stored" "$now" --limit 1.25
fi
