#!/usr/bin/env bash
# For machines without a GPU: NVIDIA's compilers and headers from PyPI, and the emulated driver of this folder.
# Use:  eval "$(tools/cudaemu/setup.sh)"   then any binary built with the feature cuda runs, on an emulated H100.
# Needs python3 with venv, g++ 12 or newer, x86-64. About 700 MB in ${CUDAEMU_HOME:-$HOME/.cache/cudaemu}, a minute once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${CUDAEMU_HOME:-$HOME/.cache/cudaemu}
mkdir -p "$home"
if [[ ! -e $home/venv/.done ]]; then
    python3 -m venv "$home/venv"
    # 13.0 is what driver 580 loads: a newer NVRTC writes PTX that it refuses. nvdisasm has no 13.0 wheel.
    "$home/venv/bin/pip" install -q --no-deps "nvidia-cuda-nvcc==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-cuda-nvrtc==13.0.*" \
        "nvidia-cuda-cccl==13.0.*" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-nvdisasm==13.5.*" >&2
    "$home/venv/bin/pip" install -q numpy >&2
    touch "$home/venv/.done"
fi
# By content, because every clone has files of other times.
sources=$(cat "$here"/*.cpp "$here"/*.h "$here/build.sh" | sha256sum)
if [[ $(cat "$home/lib/.sources" 2>/dev/null) != "$sources" ]]; then
    bash "$here/build.sh" "$home/lib" >&2
    echo "$sources" >"$home/lib/.sources"
fi
cuda=$(echo "$home"/venv/lib/python3*/site-packages/nvidia/cu13)
echo "export CUDA_PATH=$cuda CUDAEMU=$home/lib PATH=\"\$PATH:$cuda/bin\" LD_LIBRARY_PATH=$home/lib:$cuda/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
