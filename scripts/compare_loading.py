#!/usr/bin/env python3
"""Loads the same full-size checkpoint with this project and with PyTorch, in turn, and compares time and peak memory.

    cargo build --release -p evo1-examples -p evo1-cli --bin save_and_load
    scripts/compare_loading.py target/release/save_and_load FOLDER [--repeat 3]

FOLDER gets a random policy of 3.1 GB unless it holds one. PyTorch builds LeRobot's modules first, on the CPU and without
initialising them; what is timed is `load_file` and `load_state_dict(strict=True)` from the same safetensors, for ours
everything between the path and the policy. Every load runs in a process of its own with the file in the page cache. Needs
torch, transformers, safetensors and lerobot 0.6.1.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ACTION = dict(embed_dim=896, hidden_dim=1024, action_dim=50 * 24, horizon=50, per_action_dim=24, num_heads=8, num_layers=8,
              num_inference_timesteps=32, state_dim=24, state_hidden_dim=1024)
VISION = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
              image_size=[448, 448], patch_size=[14, 14], attention_bias=True)
TEXT = dict(vocab_size=151674, hidden_size=896, intermediate_size=4864, num_hidden_layers=14, num_attention_heads=14,
            num_key_value_heads=2)


def load_with_torch(weights: Path) -> None:
    """Prints the seconds and the peak memory in bytes."""
    import torch
    from lerobot.policies.evo1.flow_matching import FlowmatchingActionHead
    from safetensors.torch import load_file
    from transformers import InternVLConfig, InternVLModel, Qwen2Config

    config = InternVLConfig(vision_config=VISION, text_config=Qwen2Config(**TEXT).to_dict())
    policy = torch.nn.Module()
    with torch.device("meta"):
        policy.model = torch.nn.Module()
        policy.model.embedder = torch.nn.Module()
        policy.model.embedder.model = InternVLModel._from_config(config)
        policy.model.action_head = FlowmatchingActionHead(**ACTION)
    policy.to_empty(device="cpu")
    start = time.perf_counter()
    policy.load_state_dict(load_file(weights), strict=True)
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measured(command: list[str]) -> tuple[list[str], int]:
    """The words that a command prints and its peak memory in bytes."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return output.split(), usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    weights = arguments.folder / "model.safetensors"
    if not weights.exists():
        subprocess.run([arguments.binary, "save", arguments.folder, "--full-size"], check=True)
    size = weights.stat().st_size
    subprocess.run(["cat", weights], stdout=subprocess.DEVNULL, check=True)  # into the page cache
    ours, theirs = [], []
    for _ in range(arguments.repeat):
        words, memory = measured([arguments.binary, "load", str(arguments.folder)])
        ours.append((float(words[3]), memory))
        words, _ = measured([sys.executable, __file__, "--torch", str(weights)])
        theirs.append((float(words[0]), int(words[1])))
    print(f"{size / 1e9:.2f} GB, {arguments.repeat} loads each")
    for name, loads in [("evo1", ours), ("PyTorch", theirs)]:
        seconds, memory = [load[0] for load in loads], max(load[1] for load in loads)
        print(f"{name:8} median {statistics.median(seconds):.2f} s, least {min(seconds):.2f} s, "
              f"peak memory {memory / 1e9:.2f} GB ({memory / size:.2f} x the file)")
    ratio = statistics.median(load[0] for load in ours) / statistics.median(load[0] for load in theirs)
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch"]:
        load_with_torch(Path(sys.argv[2]))
    else:
        main()
