#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most six minutes from cold caches and without network: equality with PyTorch's
# fixtures, predictions by stage in each number type, kernels, batches, training, the start of a second process, and
# PyTorch eager, as a CUDA graph and compiled, in turn. Writes $OUT/report.md, and beside it what each part printed.
#
#   OUT=results measure/measure.sh             in the folder that scripts/gpu/build.sh packed
#
# A part that fails or takes too long is in the report with its error, and the others run all the same.
#
# DEVICE (cuda), DTYPE (bf16, the one of most parts), PRESET (evo1), VIEWS (3), STEPS (32), REPEAT (10), PYTHON (python3),
# SECONDS_LEFT (345, of all parts together), PARTS (all: a pattern of bash for the parts' names).
set -uo pipefail
cd "$(dirname "$0")" || exit 1

device=${DEVICE:-cuda} dtype=${DTYPE:-bf16} preset=${PRESET:-evo1} views=${VIEWS:-3} steps=${STEPS:-32}
repeat=${REPEAT:-10} python=${PYTHON:-python3} budget=${SECONDS_LEFT:-345} parts=${PARTS:-*}
out=${OUT:-results}
evo1=${EVO1:-./evo1}
mkdir -p "$out"
: >"$out/parts.tsv"
SECONDS=0

# Runs a part for at most LIMIT seconds: its output is NAME.json or NAME.txt, its errors NAME.err, and its line in
# parts.tsv its exit code and seconds. 124 is a part that took too long, 125 one for which no time was left.
part() {
  local name=$1 kind=$2 limit=$3 left=$((budget - SECONDS)) start code
  shift 3
  # shellcheck disable=SC2053 # it is a pattern
  [[ $name == $parts ]] || return 0
  start=$(date +%s.%N)
  if ((left < 3)); then
    code=125
  else
    timeout -k 2 "$((limit < left ? limit : left))" "$@" >"$out/$name.$kind" 2>"$out/$name.err"
    code=$?
  fi
  printf '%s\t%s\t%s\t%.1f\n' "$name" "$kind" "$code" "$(echo "$(date +%s.%N) $start" | awk '{ print $1 - $2 }')" \
    >>"$out/parts.tsv"
}

bench() {
  echo "${program:-$evo1} --device $device --dtype $1 bench --preset $preset --views $views --steps $steps --repeat ${2:-$repeat} --json"
}
peer() {
  echo "$python bench_torch.py --device $device --dtype $1 --views $views --steps $steps"
}
# Whether the program's bench has an option.
has() {
  "$evo1" bench --help 2>/dev/null | grep -q -- "$1"
}
golden() {
  local file=fixtures/$2/$3.safetensors
  echo "$evo1 --device $device --dtype $1 trace --policy fixtures/$2 --inputs $file --against $file"
}

# What follows splits commands into words.
# shellcheck disable=SC2046
{
  part gpu txt 10 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  part devices txt 20 "$evo1" devices

  # The first process compiles and tunes; the second finds what it kept.
  part evo1-first json 100 $(bench "$dtype")
  part evo1-second json 40 $(bench "$dtype" 1)
  part torch-eager json 45 $(peer "$dtype") --repeat "$repeat"
  part evo1-eager json 40 $(bench "$dtype")
  if has --graph; then
    part evo1-graph json 40 $(bench "$dtype") --graph
  fi
  # A program on the next burn, where one was packed.
  if [[ -x ./evo1-next ]]; then
    part next-first json 60 $(program=./evo1-next bench "$dtype" 1)
    part next-eager json 40 $(program=./evo1-next bench "$dtype")
    part next-graph json 40 $(program=./evo1-next bench "$dtype") --graph
    part next-kernels json 60 $(program=./evo1-next bench "$dtype") --kernels
  fi
  part torch-graph json 45 $(peer "$dtype") --repeat 30 --graph
  if has --graph; then
    part evo1-graph-again json 40 $(bench "$dtype") --graph
  fi

  part kernels json 60 $(bench "$dtype") --kernels
  part candidates json 90 $(bench "$dtype" 3) --kernels --candidates
  part golden-f32 txt 30 $(golden f32 tiny-lerobot inference)
  part golden-f32-official txt 30 $(golden f32 tiny-official inference)
  part golden-f32-horizon1 txt 20 $(golden f32 tiny-horizon1 inference)
  part golden-half txt 30 $(golden "$dtype" tiny-lerobot inference) --tolerance 0.1
  part golden-gradients txt 30 $(golden f32 tiny-train-lerobot train_stage2) --train stage2

  part batch8 json 40 $(bench "$dtype") --batch 8
  part matrix json 90 $(bench "$dtype" 3) --matrix "$device:f32,$device:tf32,$device:f16,$device:bf16"
  part torch-compile json 90 $(peer "$dtype") --repeat 30 --graph --compile default
  part train json 60 $(bench "$dtype" 3) --train 2
  part torch-train json 45 $(peer "$dtype") --repeat 3 --train 2
  part torch-batch8 json 30 $(peer "$dtype") --repeat "$repeat" --graph --batch 8
  part torch-tf32 json 30 $(peer tf32) --repeat "$repeat" --graph
  part torch-f32 json 30 $(peer f32) --repeat "$repeat" --graph
  part torch-autotune json 90 $(peer "$dtype") --repeat 30 --graph --compile max-autotune
}

"$python" measure_report.py "$out" >"$out/report.md"
echo "$out/report.md after $SECONDS s" >&2
