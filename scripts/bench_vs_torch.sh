#!/usr/bin/env bash
# Times Evo-1 at its full size in PyTorch and here in turn, A B A B, with the same threads, and prints the ratios of the
# medians over all rounds.
#
#     PYTHON=python3 THREADS=2 ROUNDS=2 REPEAT=3 scripts/bench_vs_torch.sh --impl plain
#
# What follows goes to scripts/bench_torch.py. EVO1 is the binary, by default the release build. With MASKED=1 one of the
# VIEWS is masked here: LeRobot computes it all the same. TRAIN=1 or 2 times steps of training of that stage.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3} threads=${THREADS:-$(nproc)} rounds=${ROUNDS:-2} repeat=${REPEAT:-3}
views=${VIEWS:-3} masked=${MASKED:-0} steps=${STEPS:-32} batch=${BATCH:-1} dtype=${DTYPE:-f32}
training=()
[[ -z ${TRAIN:-} ]] || training=(--train "$TRAIN")
evo1=${EVO1:-target/release/evo1}
[[ -x $evo1 ]] || cargo build --release --bin evo1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

for round in $(seq "$rounds"); do
  "$python" scripts/bench_torch.py --threads "$threads" --views "$views" --steps "$steps" --batch "$batch" \
    --repeat "$repeat" "${training[@]}" "$@" >"$out/torch.$round"
  "$evo1" --dtype "$dtype" bench --preset evo1 --threads "$threads" --views $((views - masked)) --masked "$masked" \
    --steps "$steps" --batch "$batch" --repeat "$repeat" "${training[@]}" --json >"$out/evo1.$round"
  echo "round $round done" >&2
done

"$python" - "$out" <<'PYTHON'
import json, pathlib, statistics, sys

rounds = lambda name: [json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob(name + ".*")]
torch, evo1 = rounds("torch"), rounds("evo1")
print(f"{'stage':10} {'torch ms':>10} {'evo1 ms':>10} {'ratio':>7}")
stages = ["vision", "projector", "language", "action", "total", "step"]
for stage in [name for name in stages if all(name in report["milliseconds"] for report in torch + evo1)]:
    a, b = (statistics.median(report["milliseconds"][stage]["p50"] for report in side) for side in (torch, evo1))
    print(f"{stage:10} {a:10.0f} {b:10.0f} {b / a:7.2f}")
a, b = (max(report["peak_memory_bytes"] for report in side) / 1e9 for side in (torch, evo1))
print(f"{'memory GB':10} {a:10.2f} {b:10.2f} {b / a:7.2f}")
PYTHON
