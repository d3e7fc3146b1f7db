"""Samples a second in random order, of LeRobot's reader and of the authors' way, for comparison with the example
`random_access` of evo1-data.

    python scripts/read_speed.py V21 V30 [SAMPLES [WORKERS]]

V21 and V30 are the same dataset in versions 2.1 and 3.0. The authors' way is what their loader does: a PyAV container is
kept open, and each frame is decoded from the video's start. LeRobot's reader runs with its default backend. Needs
lerobot, torch, PyAV, pandas.
"""

import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

HORIZON = 16


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


def measure(name, dataset, samples, workers):
    generator = torch.Generator().manual_seed(0)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=samples, generator=generator)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers)
    iterator = iter(loader)
    # The workers' start does not count.
    for _ in range(20):
        next(iterator)
    start = time.perf_counter()
    count = sum(1 for _ in iterator)
    print(f"{name}: {count / (time.perf_counter() - start):.0f} samples a second", flush=True)


if __name__ == "__main__":
    v21, v30 = Path(sys.argv[1]), Path(sys.argv[2])
    samples, workers = (int(argument) for argument in (sys.argv[3:] + ["2000", "2"][len(sys.argv) - 3 :])[:2])
    measure("authors' way", FromStart(v21), samples, workers)
    fps = 80
    windows = {"action": [step / fps for step in range(HORIZON)]}
    lerobot = LeRobotDataset("local/v30", root=v30, delta_timestamps=windows, tolerance_s=1e-3)
    measure(f"LeRobot ({lerobot._video_backend if hasattr(lerobot, '_video_backend') else 'default backend'})", lerobot, samples, workers)
