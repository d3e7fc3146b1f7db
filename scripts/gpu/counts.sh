#!/usr/bin/env bash
# What a full-size prediction asks of a CUDA device, counted on the emulated one, of which the host's side alone runs: the
# numbers are the same on every machine. A table on standard output: by number type and stage, launches of kernels,
# waits of the host, uploads and downloads with their bytes; and of the whole process the kinds of kernels, how many were
# compiled, the bytes uploaded and the memory held.
#
#   EVO1=target/debug/evo1 scripts/gpu/counts.sh > scripts/gpu/counts.tsv     after a change that is meant
#   EVO1=target/debug/evo1 scripts/gpu/counts.sh --check                      fails, with what differs, if the table is another
#
# EVO1 is the program with the feature `cuda`; `tools/cudaemu/setup.sh` has been evaluated.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

count() {
  local dtype=$1
  CUDAEMU_RUN=0 CUDAEMU_LOG=$folder/$dtype.log CUDAEMU_PROFILE=$folder/$dtype.profile \
    "$EVO1" --device cuda --dtype "$dtype" bench --preset evo1 --views 3 --steps 32 --repeat 1 >/dev/null
  python3 - "$dtype" "$folder/$dtype.log" "$folder/$dtype.profile" <<'PYTHON'
import re
import sys

dtype, log, profile = sys.argv[1:]
events = [line.split() for line in open(log)]
# A stage ends when the host waits; the last one reads the actions, which are 50 steps of 24 numbers. The prediction before
# ended with the second wait after its actions were read.
*_, previous, read = (at for at, event in enumerate(events) if event[:2] == ["download", str(50 * 24 * 4)])
waits = [at for at, event in enumerate(events) if event[0] == "wait"]
ends = [at for at in waits if at < read][-5:] + [next(at for at in waits if at > read)]
starts = [[at for at in waits if at > previous][1]] + ends[:-1]
for stage, start, end in zip(["prepare", "vision", "projector", "language", "action", "finish"], starts, ends):
    inside = events[start + 1 : end + 1]
    moved = lambda what: [int(event[1]) for event in inside if event[0] == what]
    counts = [sum(event[0] == what for event in inside) for what in ("launch", "wait")]
    for what in ("upload", "download"):
        counts += [len(moved(what)), sum(moved(what))]
    print(dtype, stage, *counts, sep="\t")
header, _, *kernels = open(profile)
number = lambda name: re.search(name, header)[1]
kinds = {re.sub(r"^\d+-|_[0-9a-f]{8}$", "", line.split("\t")[0]) for line in kernels}
print(dtype, "process: kinds of kernels", len(kinds), sep="\t")
print(dtype, "process: kernels compiled", number(r"modules (\d+)"), sep="\t")
print(dtype, "process: bytes uploaded", number(r"uploads \d+ \((\d+)"), sep="\t")
print(dtype, "process: peak memory", number(r"peak memory (\d+)"), sep="\t")
PYTHON
}

table() {
  printf 'type\tstage\tlaunches\twaits\tuploads\tbytes\tdownloads\tbytes\n'
  for dtype in f32 tf32 bf16 f16; do count "$dtype"; done
}

# The table without what depends on timing, which is when the host lets go of a buffer: whether an operation may write in
# place, which is another variant of its kernel, and how much memory is held.
exact() {
  grep -v 'kernels compiled\|peak memory'
}

# Fails where more than a quarter more memory is held than the table says.
memory_is_held() {
  awk -F '\t' '$2 != "process: peak memory" { next } NR == FNR { limit[$1] = 1.25 * $3; next }
    $3 > limit[$1] { print $1 ": peak memory " $3 ", at most " limit[$1]; exit 1 }' scripts/gpu/counts.tsv "$1"
}

if [[ ${1:-} == --check ]]; then
  table >"$folder/table"
  if ! diff -u <(exact <scripts/gpu/counts.tsv) <(exact <"$folder/table") || ! memory_is_held "$folder/table"; then
    echo "the counts differ from scripts/gpu/counts.tsv: if that is meant, write the table anew, and it shows in the change"
    exit 1
  fi
else
  table
fi
