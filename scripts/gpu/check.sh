#!/usr/bin/env bash
# What concerns a CUDA device, on the emulated one of tools/cudaemu: its self-test, every operation and every fixture with
# its gradients in f32 (an H100, and a card without TF32), half precision beside PyTorch's, graphs, the program's commands,
# the counts of a full-size prediction beside those of counts.tsv, and the machine code of its kernels. Skipped by name where
# it cannot run.
#
#   scripts/gpu/check.sh            needs x86-64 Linux, g++ 12 or newer, python3 with venv, and what the feature cuda needs
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ $(uname -sm) != "Linux x86_64" ]] || ! type g++ python3 >/dev/null 2>&1; then
  echo "skipped: the emulated CUDA device needs x86-64 Linux, g++ and python3"
  exit
fi

# One build: the program with every device, and the tests that run on one.
built=$(cargo build -p evo1-cli -p evo1 -p evo1-core --all-features --bin evo1 --test ops --test goldens --test devices --test rollout \
  --message-format=json-render-diagnostics)
executable() {
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])
' "$1" <<<"$built"
}
ops=$(executable ops) goldens=$(executable goldens) devices=$(executable devices) rollout=$(executable rollout)
EVO1=$(executable evo1)
export EVO1 EVO1_TEST_DEVICES=cuda

cuda=$(tools/cudaemu/setup.sh)
eval "$cuda"

# Runs a test program as cargo does, in the folder of its package, and shows what it says if it fails.
check() {
  local start=$SECONDS name=$1 folder=$2 log
  log=$(mktemp)
  shift 2
  if ! (cd "$folder" && "$@") >"$log" 2>&1; then
    cat "$log"
    echo "failed: $name"
    return 1
  fi
  grep -E '×|passed' "$log" || true
  echo "$name: $((SECONDS - start)) s"
}

# The code of the kernels that a prediction spends its time in: a block of each launch of the full size runs.
code() {
  local folder kernel
  folder=$(mktemp -d)
  # What is computed of so few blocks is no prediction.
  CUDAEMU_SAMPLE=1 CUDAEMU_DUMP=$folder CUDAEMU_PROFILE=$folder/profile XDG_CACHE_HOME=$folder \
    "$EVO1" --device cuda --dtype bf16 bench --preset evo1 --views 3 --steps 1 --repeat 1 >/dev/null 2>&1 || true
  for kernel in product_kernel attention_kernel norm_kernel swiglu_kernel rotate_kernel; do
    python3 tools/cudaemu/inspect_ptx.py "$folder" --profile "$folder/profile" --match "$kernel" --check
  done
  rm -r "$folder"
}

check "self-test of the emulator" . "$CUDAEMU/../venv/bin/python" tools/cudaemu/selftest.py
check "counts of the full size" . scripts/gpu/counts.sh --check &
counts=$!
check "code of the kernels" . code
check "operations" evo1-core "$ops" --test-threads 1
wait "$counts"
check "graphs" evo1 "$rollout" --skip the_last_graphs_are_kept --skip batches_and_black_views --test-threads 2
check "the program's commands" evo1-cli "$devices" --test-threads 2
check "half precision" evo1 "$goldens" half --nocapture --test-threads 1 &
half=$!
check "fixtures in f32" evo1 "$goldens" --skip half --test-threads 2
wait "$half"
CUDAEMU_SM=75 check "fixtures in f32 on a card without TF32" evo1 "$goldens" --skip half --test-threads 2
