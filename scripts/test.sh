#!/usr/bin/env bash
# Runs the tests, with cargo-nextest where it is installed and with cargo's own runner elsewhere, which runs the examples
# in the documentation too; after nextest they run by themselves. Arguments are cargo's: `scripts/test.sh -p evo1-vlm`.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -gt 0 ]] || set -- --workspace
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --no-tests=warn "$@"
  cargo test --doc "$@"
else
  cargo test "$@"
fi
