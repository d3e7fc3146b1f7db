#!/usr/bin/env bash
# Builds what scripts/gpu/measure.sh needs on a machine with a GPU, and packs it into one folder and one archive of at most
# 60 MB: the program, the fixtures that it is compared with, PyTorch's peer and the script itself.
#
#   scripts/gpu/build.sh                       target/gpu/measure/ and target/gpu/measure.tar.xz
#   tar -xf measure.tar.xz && OUT=results measure/measure.sh      on the other machine
#
# PROFILE is cargo's (release), FEATURES the program's, OUT the folder (target/gpu), EVO1 a program that is built already. NEXT is one
# on the next burn (scripts/burn_next.sh), which is measured beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${PROFILE:-release} features=${FEATURES:-flex,cuda,train,serve} out=${OUT:-target/gpu}
most=$((60 * 1000 * 1000))
fixtures=(tiny-lerobot tiny-horizon1 tiny-official tiny-train-lerobot)

if [[ -z ${EVO1:-} ]]; then
  EVO1_COMMIT=$(git describe --always --dirty)
  export EVO1_COMMIT
  built=$(cargo build --profile "$profile" -p evo1-cli --bin evo1 --no-default-features --features "$features" \
    --message-format=json-render-diagnostics)
  EVO1=$(grep '"name":"evo1"' <<<"$built" | grep -o '"executable":"[^"]*"' | tail -1 | cut -d '"' -f 4)
fi

folder=$out/measure
rm -rf "$folder"
mkdir -p "$folder/fixtures"
strip -o "$folder/evo1" "$EVO1"
[[ -z ${NEXT:-} ]] || strip -o "$folder/evo1-next" "$NEXT"
cp scripts/gpu/measure.sh scripts/gpu/measure_report.py scripts/bench_torch.py "$folder"
for name in "${fixtures[@]}"; do
  cp -r "fixtures/$name" "$folder/fixtures"
done
XZ_OPT='-T0 -6' tar -cJf "$folder.tar.xz" -C "$out" measure
size=$(stat -c %s "$folder.tar.xz")
echo "$folder.tar.xz: $size bytes, unpacked $(du -sm "$folder" | cut -f 1) MB"
if ((size > most)); then
  echo "more than $most bytes" >&2
  exit 1
fi
