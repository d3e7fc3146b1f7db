#!/usr/bin/env bash
# Packs every crate as crates.io would get it and builds each from its package, in the order in which they depend on each other;
# nothing is sent. `publish.sh --no-verify` packs alone. What is left out is no crate for others: the examples, and the Python
# package, which is a wheel.
#
# To release: the version in Cargo.toml (workspace.package, and the crates among workspace.dependencies), CHANGELOG.md, a tag; then
# the same command of cargo's without --dry-run.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo publish --workspace --exclude evo1-examples --exclude evo1-python --dry-run --allow-dirty "$@"
