#!/usr/bin/env bash
# The same sources on the next burn, which is not released, in a folder of its own: cargo's arguments follow.
#
#   scripts/burn_next.sh check -p evo1-cli --no-default-features --features flex,cuda,train,serve
#   scripts/burn_next.sh test -p evo1 --no-default-features --features flex --test goldens
#   NEXT=$(scripts/burn_next.sh path)/release/evo1 scripts/gpu/build.sh     # after `build --release …`: measured beside the released one
#
# FOLDER (target/burn-next) gets the sources and what is built. Of the sources only versions are others, and the device
# `ndarray`, which the next burn does not have, is left out.
set -euo pipefail
cd "$(dirname "$0")/.."

burn=0.23.0-pre.1 cubecl=0.12.0-pre.1 cubek=0.4.0-pre.1
folder=$(realpath -m "${FOLDER:-target/burn-next}")
[[ ${1:?burn_next.sh COMMAND …} != path ]] || { echo "$folder/target" && exit; }

mkdir -p "$folder/source"
rsync --recursive --links --perms --times --delete --exclude=/.git --exclude='/target*' --exclude=/Cargo.lock ./ "$folder/source/"
[[ -e $folder/source/Cargo.lock ]] || cp Cargo.lock "$folder/source"
cd "$folder/source"
version() { sed -i -E "/^$1 = /s/\"[0-9][^\"]*\"/\"=$2\"/" Cargo.toml && grep -q "^$1 = .*\"=$2\"" Cargo.toml; }
for name in burn burn-cubecl burn-pack pytorch-reader; do version "$name" "$burn"; done
version cubecl "$cubecl"
version cubek "$cubek"
sed -i -E '/^ndarray = \[/s/"burn\/[a-z]+",? ?//g' evo1-core/Cargo.toml evo1-kernels/Cargo.toml
sed -i '/^    NdArray: cfg(feature = "ndarray"),$/d' evo1-kernels/src/backend.rs
CARGO_TARGET_DIR=$folder/target exec cargo "$@"
