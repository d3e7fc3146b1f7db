#!/usr/bin/env python3
"""Connects to a policy server with the options of each of Evo-1's robot clients and sends what that client sends.

    scripts/check_clients.py EVO1 POLICY      # the binary, and a policy directory of any size
    scripts/check_clients.py EVO1 POLICY --only Meta-World --steps 60

The policy is served from a copy with statistics of the robots that the clients drive. `--steps` makes inference longer: a
client with the usual pings every 20 s and 20 s to answer them must live through one of 55 s. Needs websockets and numpy.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from websockets.sync.client import connect

HUNDRED_MB = dict(max_size=100_000_000)
TEN_MB = dict(max_size=10_000_000)
# Name, side of the images, their mask, state, its padding, ones of the action mask, whether it is nested, keys, connection.
CLIENTS = [
    ("Meta-World", 448, [1, 0, 0], 8, 8, 4, False, ("default8", None), HUNDRED_MB),
    ("LIBERO", 448, [1, 1, 0], 8, 8, 7, False, ("default8", None), {}),
    ("RoboTwin", 240, [1, 1, 1], 14, 14, 14, False, ("aloha_joint", "robotwin_task"), HUNDRED_MB | dict(ping_interval=None)),
    ("xarm6", 448, [1, 1, 0], 7, 24, 7, True, ("xarm6", None), TEN_MB),
    ("aloha", 224, [1, 1, 1], 14, 24, 14, True, ("aloha", None), TEN_MB),
]


def statistics(width: int) -> dict:
    bounds = {"min": [-1.0] * width, "max": [1.0] * width}
    return {"observation.state": bounds, "action": bounds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("policy", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        policy.mkdir()
        for file in args.policy.iterdir():
            if file.is_file() and file.name != "norm_stats.json" and not file.name.startswith("policy_p"):
                (policy / file.name).symlink_to(file.resolve())
        known = {"default8": statistics(8), "aloha_joint": {"robotwin_task": statistics(14)}, "xarm6": statistics(7), "aloha": statistics(14)}
        (policy / "norm_stats.json").write_text(json.dumps(known))
        server = subprocess.Popen([args.binary, "serve", "--policy", policy, "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().split()[-1]
            for name, side, mask, state, padded, width, nested, (arm, dataset), options in CLIENTS:
                if args.only not in (None, name):
                    continue
                images = [rng.integers(0, 256, (side, side, 3)) if m else np.zeros((side, side, 3), int) for m in mask]
                actions = [int(i < width) for i in range(24)]
                message = {
                    "image": [image.tolist() for image in images],
                    "image_mask": mask,
                    "state": (rng.uniform(-1, 1, state).tolist() + [0.0] * 24)[:padded],
                    "action_mask": [actions] if nested else actions,
                    "prompt": "Pick up the block",
                    "arm_key": arm,
                }
                if dataset:
                    message["dataset_key"] = dataset
                if args.steps:
                    message["steps"] = args.steps
                text = json.dumps(message)
                with connect(url, **options) as socket:
                    for _ in range(2):
                        start = time.perf_counter()
                        socket.send(text)
                        reply = np.array(json.loads(socket.recv()), float)
                        seconds = time.perf_counter() - start
                        assert reply.ndim == 2 and reply.shape[1] == 24 and np.isfinite(reply).all(), reply.shape
                        print(f"{name:10} {len(text) / 1e6:5.1f} MB, {reply.shape[0]} x {reply.shape[1]} actions after {seconds:.2f} s", flush=True)
        finally:
            server.terminate()
            print("the server ended with", server.wait())


if __name__ == "__main__":
    main()
