#!/usr/bin/env bash
# Builds the wheel of evo1-python as a development build and tests it against the program: test_python.sh PROGRAM. Where there is no
# python3 (3.11 or newer) with venv it says so and ends.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:?test_python.sh PROGRAM}")
if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo 'there is no python3 (3.11 or newer) with venv: the Python package is not tested'
  exit
fi
venv=${CARGO_TARGET_DIR:-target}/python
if [[ ! -x $venv/bin/pytest ]]; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check maturin numpy pytest
fi
rm -rf "$venv/wheels"
"$venv/bin/maturin" build --quiet --manifest-path evo1-python/Cargo.toml --profile dev --no-default-features --features flex \
  --out "$venv/wheels"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$venv"/wheels/evo1-*.whl
EVO1=$program "$venv/bin/pytest" --quiet -p no:cacheprovider evo1-python/tests
