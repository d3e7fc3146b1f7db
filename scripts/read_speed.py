"""Samples a second in random order: the authors' way, LeRobot's reader and this project, by turns on one machine.

    python scripts/read_speed.py target/release/examples/random_access V21 V30 [SAMPLES [WORKERS [ROUNDS]]]

V21 and V30 are the same dataset in versions 2.1 and 3.0. The authors' way is what their loader does: a PyAV container is
kept open, and each frame is decoded from the video's start; frames stay bytes. LeRobot's reader runs with its default
backend, and this project's on both versions; both make tensors of frames as numbers from 0 to 1. All have the same
number of workers that hand one sample after the other to one consumer, two waiting for each worker. Prints each round
with the processor time of a sample, start included, which other programs on the machine disturb less, and the medians of
the speeds and their ratios. Needs lerobot 0.6.1 with its dataset extra, torch, PyAV, pandas.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.import_utils import get_safe_default_video_backend

HORIZON = 16
WARM_UP = 20


class FromStart(torch.utils.data.Dataset):
    """Frames as the authors' loader reads them."""

    def __init__(self, root):
        self.tables = [pd.read_parquet(path) for path in sorted(root.glob("data/*/*.parquet"))]
        self.cameras = [path.name for path in sorted(root.glob("videos/chunk-000/*"))]
        self.root, self.containers = root, {}
        self.index = [(e, i) for e, table in enumerate(self.tables) for i in range(len(table))]

    def __len__(self):
        return len(self.index)

    def frame(self, path, timestamp):
        if path not in self.containers:
            if len(self.containers) >= 16:
                self.containers.pop(next(iter(self.containers))).close()
            self.containers[path] = av.open(str(path))
        container = self.containers[path]
        container.seek(0, stream=container.streams.video[0])
        for frame in container.decode(video=0):
            if frame.time >= timestamp:
                break
        return frame.to_ndarray(format="rgb24")

    def __getitem__(self, number):
        episode, row = self.index[number]
        table = self.tables[episode]
        rows = np.minimum(np.arange(row, row + HORIZON), len(table) - 1)
        actions = np.stack(table["action"].iloc[rows].to_list())
        paths = [self.root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4" for camera in self.cameras]
        frames = [self.frame(path, table["timestamp"].iloc[row]) for path in paths]
        return np.stack(frames), np.asarray(table["observation.state"].iloc[row]), actions


def processor_seconds():
    """Of this process and of those that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in used)


def python_speed(dataset, samples, workers):
    generator = torch.Generator().manual_seed(0)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=samples + WARM_UP, generator=generator)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers)
    iterator = iter(loader)
    # The workers' start does not count.
    for _ in range(WARM_UP):
        next(iterator)
    start = time.perf_counter()
    count = sum(1 for _ in iterator)
    return count / (time.perf_counter() - start)


def our_speed(example, root, samples, workers):
    command = [example, root, str(samples), str(workers)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"([0-9]+) a second", printed)[-1])


def main(example, v21, v30, samples=2000, workers=2, rounds=3):
    samples, workers, rounds = int(samples), int(workers), int(rounds)
    v21, v30 = Path(v21), Path(v30)
    fps = json.loads((v30 / "meta/info.json").read_text())["fps"]
    windows = {"action": [step / fps for step in range(HORIZON)]}
    authors = FromStart(v21)
    lerobot = LeRobotDataset("local/v30", root=v30, delta_timestamps=windows, tolerance_s=1e-3)
    ways = {
        "the authors' way": lambda: python_speed(authors, samples, workers),
        f"LeRobot ({get_safe_default_video_backend()})": lambda: python_speed(lerobot, samples, workers),
        "this project, 2.1": lambda: our_speed(example, v21, samples, workers),
        "this project, 3.0": lambda: our_speed(example, v30, samples, workers),
    }
    speeds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, speed in ways.items():
            before = processor_seconds()
            speeds[name].append(speed())
            used = 1e3 * (processor_seconds() - before) / samples
            print(f"{name}: {speeds[name][-1]:.0f} samples a second, {used:.1f} ms of processor time each", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    peers, ours = list(medians.items())[:2], list(medians.items())[2:]
    for name, speed in ours:
        ratios = ", ".join(f"{speed / of:.1f} times {peer}" for peer, of in peers)
        print(f"{name}: median {speed:.0f} samples a second, {ratios}")


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 7:
        sys.exit(__doc__)
    main(*sys.argv[1:])
