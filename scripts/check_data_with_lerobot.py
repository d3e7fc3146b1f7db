"""Compares every sample of real datasets, as `evo1-data` reads it, with LeRobot's own reader and with PyAV.

    python scripts/check_data_with_lerobot.py target/release/examples/every_sample V21 V30 [V21 V30 ...]

V21 and V30 are the same dataset in version 2.1 and as LeRobot's converter made 3.0 of it. Both are read by the example
`every_sample`. States, windows of 16 actions, which of them are past the end, timestamps and instructions of both must be
those of LeRobot's reader to the bit, and frames within 2 grey levels on average of what LeRobot's reader gives (version 3)
and of PyAV's decode of the whole file (version 2.1). Frames must also be equal to the bit to PyAV's luminance and
chroma, converted here in fixed point: decoders are exact, and only FFmpeg's conversion to RGB rounds otherwise. Needs
lerobot 0.6.1 with the PyAV that it asks for (15). Prints what was compared; exits 1 when something differs.
"""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

HORIZON = 16
LEVELS = 2.0


def ours(example, root):
    """Every sample as the example writes it, its frames by camera."""
    with subprocess.Popen([example, root, str(HORIZON)], stdout=subprocess.PIPE) as process:
        while line := process.stdout.readline():
            sample = json.loads(line)
            sample["frames"] = {}
            for camera in sample.pop("cameras"):
                shape = camera["height"], camera["width"], 3
                data = process.stdout.read(int(np.prod(shape)))
                sample["frames"][camera["name"]] = np.frombuffer(data, np.uint8).reshape(shape)
            yield sample
    if process.returncode != 0:
        sys.exit(f"{example} failed on {root}")


def rgb_from_planes(frame):
    """BT.601 in the limited range, chroma repeated, with 14 bits after the point."""
    planes = frame.to_ndarray(format="yuv420p").astype(np.int32)
    height, width = frame.height, frame.width
    y = planes[:height]
    u, v = (plane.reshape(height // 2, width // 2).repeat(2, 0).repeat(2, 1) - 128
            for plane in (planes[height : height + height // 4], planes[height + height // 4 :]))
    fixed = lambda factor: round(factor * (1 << 14))
    luma, chroma = 255 / 219, 255 / 224
    red, blue = 0.299, 0.114
    green = 1 - red - blue
    y = (y - 16) * fixed(luma) + (1 << 13)
    return np.stack([
        y + fixed(2 * (1 - red) * chroma) * v,
        y + fixed(-2 * (1 - blue) * blue / green * chroma) * u + fixed(-2 * (1 - red) * red / green * chroma) * v,
        y + fixed(2 * (1 - blue) * chroma) * u,
    ], -1).__rshift__(14).clip(0, 255).astype(np.uint8)


class Comparison:
    """What was compared, and what differs."""

    def __init__(self, name):
        self.name, self.counts, self.faults = name, {}, []
        self.worst, self.sum, self.frames = 0.0, 0.0, 0

    def equal(self, what, place, got, expected):
        got, expected = np.asarray(got), np.asarray(expected)
        self.counts[what] = self.counts.get(what, 0) + 1
        if got.shape != expected.shape or not np.array_equal(got, expected):
            self.faults.append(f"{what} at {place}: {got} is not {expected}")

    def close(self, place, got, expected):
        if got.shape != expected.shape:
            self.faults.append(f"frame at {place}: {got.shape} is not {expected.shape}")
            return
        difference = float(np.abs(got.astype(np.int16) - expected).mean())
        self.frames, self.sum, self.worst = self.frames + 1, self.sum + difference, max(self.worst, difference)
        if difference >= LEVELS:
            self.faults.append(f"frame at {place}: {difference:.2f} levels on average")

    def report(self):
        values = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        print(f"{self.name}: {values} compared for equality; {self.frames} frames with a mean difference of "
              f"{self.sum / max(self.frames, 1):.3f} levels, the worst one's {self.worst:.3f}; {len(self.faults)} differ")
        for fault in self.faults[:10]:
            print("  " + fault)
        sys.stdout.flush()
        return not self.faults


def numbers(comparison, place, sample, item):
    single = lambda values: np.asarray(values, np.float32)
    comparison.equal("episodes", place, sample["episode"], int(item["episode_index"]))
    comparison.equal("frame numbers", place, sample["frame"], int(item["frame_index"]))
    comparison.equal("timestamps", place, single(sample["timestamp"]).reshape(-1), item["timestamp"].numpy().reshape(-1))
    comparison.equal("instructions", place, sample["instruction"], item["task"])
    comparison.equal("states", place, single(sample["state"]), item["observation.state"].numpy())
    actions = item["action"].numpy()
    comparison.equal("windows of actions", place, single(sample["actions"]).reshape(len(sample["action_is_pad"]), -1), actions)
    comparison.equal("masks", place, sample["action_is_pad"], item["action_is_pad"].numpy())


class WholeVideos:
    """PyAV's decode of the files of version 2.1, each from its start to its end."""

    def __init__(self, root):
        self.root, self.open = root, {}

    def frame(self, camera, episode):
        path = self.root / f"videos/chunk-{episode // 1000:03d}/{camera}/episode_{episode:06d}.mp4"
        if self.open.get(camera, (None,))[0] != path:
            self.open[camera] = path, av.open(str(path)).decode(video=0)
        return next(self.open[camera][1])


def compare(example, v21, v30):
    fps = json.loads((v30 / "meta/info.json").read_text())["fps"]
    windows = {"action": [step / fps for step in range(HORIZON)]}
    lerobot = LeRobotDataset(f"local/{v30.name}", root=v30, delta_timestamps=windows, video_backend="pyav", tolerance_s=1e-3)
    old, new = Comparison(f"{v21.name} 2.1 with LeRobot and PyAV"), Comparison(f"{v30.name} 3.0 with LeRobot")
    videos, count = WholeVideos(v21), 0
    for index, (of_old, of_new) in enumerate(zip(ours(example, v21), ours(example, v30), strict=True)):
        item, count = lerobot[index], index + 1
        place = f"episode {of_new['episode']}, frame {of_new['frame']}"
        numbers(old, place, of_old, item)
        numbers(new, place, of_new, item)
        for camera, frame in of_new["frames"].items():
            expected = np.round(item[camera].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
            new.close(f"{place}, {camera}", frame, expected)
        for camera, frame in of_old["frames"].items():
            decoded = videos.frame(camera, of_old["episode"])
            old.close(f"{place}, {camera}", frame, decoded.to_ndarray(format="rgb24"))
            old.equal("frames from planes", f"{place}, {camera}", frame, rgb_from_planes(decoded))
    for comparison in (old, new):
        comparison.equal("numbers of samples", "the end", count, len(lerobot))
    return [comparison.report() for comparison in (old, new)]


if __name__ == "__main__":
    example, folders = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]
    if not folders or len(folders) % 2:
        sys.exit(__doc__)
    results = [result for v21, v30 in zip(folders[::2], folders[1::2]) for result in compare(example, v21, v30)]
    sys.exit(not all(results))
