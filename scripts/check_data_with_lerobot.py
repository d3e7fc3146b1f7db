"""Compares every sample of real datasets, as `evo1-data` reads it, with LeRobot's own reader and with PyAV.

    python scripts/check_data_with_lerobot.py target/release/examples/every_sample V21 V30 [V21 V30 ...]
    python scripts/check_data_with_lerobot.py --cases target/release/examples/every_sample target/release/evo1 V30

V21 and V30 are the same dataset in version 2.1 and as LeRobot's converter made 3.0 of it. Both are read by the example
`every_sample`. States, windows of 16 actions, which of them are past the end, timestamps and instructions of both must be
those of LeRobot's reader to the bit, and frames within 2 grey levels on average of what LeRobot's reader gives (version 3)
and of PyAV's decode of the whole file (version 2.1). Frames must also be equal to the bit to PyAV's luminance and
chroma, converted here in fixed point: decoders are exact, and only FFmpeg's conversion to RGB rounds otherwise. Needs
lerobot 0.6.1 with the PyAV that it asks for (15). Prints what was compared; exits 1 when something differs.

With `--cases` the small dataset V30 (`fixtures/lerobot-datasets/v30`) is damaged in the ways in which published datasets are. Of each case
`every_sample` must read what LeRobot's reader reads of the whole dataset, and so must both of the copy that `evo1 data
--repair` makes; LeRobot's reader of the case itself, too, unless it cannot read it, which is said.
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

# What readers cannot read is said here, in a line.
logging.disable(logging.ERROR)

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


EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TABLE = "data/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
CAMERA = "observation.images.front"


def put(root, file, **columns):
    """Writes a table again with other columns; None leaves one out. Names have `__` for `/`."""
    path = root / file
    table = pq.read_table(path)
    for name, values in columns.items():
        name = name.replace("__", "/") if name != "__index_level_0__" else name
        if name in table.column_names:
            at = table.column_names.index(name)
            table = table.remove_column(at)
        else:
            at = table.num_columns
        if values is not None:
            table = table.add_column(at, name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(table, path)


def column(root, file, name):
    return pq.read_table(root / file, columns=[name])[name].to_pylist()


def split(root, *files):
    """The one table over several, by episodes."""
    table = pq.read_table(root / TABLE)
    of = np.array(table["episode_index"].to_pylist())
    for number, episodes in enumerate(files):
        rows = np.concatenate([np.flatnonzero(of == episode) for episode in episodes])
        pq.write_table(table.take(rows), root / f"data/chunk-000/file-{number:03d}.parquet")


def claim(root, files, *claimed):
    split(root, *files)
    put(root, EPISODES, data__file_index=list(claimed))


def info(root, **values):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def described(root, name, dtype, shape, values):
    """A column that `info.json` describes."""
    put(root, TABLE, **{name: values})
    features = json.loads((root / "meta/info.json").read_text())["features"]
    info(root, features=features | {name: {"dtype": dtype, "shape": shape, "names": None}})


def tasks_as(root, form):
    put(root, TABLE, task_index=form(column(root, TABLE, "task_index")))


def starts(root, *seconds):
    put(root, EPISODES, **{f"videos__{CAMERA}__from_timestamp": list(seconds)})


def files_of_video(root, *numbers):
    put(root, EPISODES, **{f"videos__{CAMERA}__file_index": list(numbers)})


# What is done to the dataset, and whether it takes a repair to be read by this project.
CASES = {
    "01 stale numbers of files": (lambda root: claim(root, [[0], [1, 2]], 0, 0, 1), False),
    "01 all in the first file": (lambda root: claim(root, [[0], [1, 2]], 0, 0, 0), False),
    "01 two stale files": (lambda root: claim(root, [[0], [1], [2]], 0, 0, 1), False),
    "01 right numbers": (lambda root: claim(root, [[0], [1, 2]], 0, 1, 1), False),
    "02 files that are not there": (lambda root: put(root, EPISODES, data__file_index=[0, 1, 2]), False),
    "02 files in another order": (lambda root: claim(root, [[1, 2], [0]], 0, 0, 0), False),
    "03 scrambled first rows": (lambda root: put(root, EPISODES, dataset_from_index=[0, 0, 12]), False),
    "03 wrong lengths": (lambda root: put(root, EPISODES, length=[9, 9, 9]), False),
    "11 a start that drifted": (lambda root: starts(root, 0.0, 0.76, 1.96), True),
    "11 a start on another frame": (lambda root: starts(root, 0.0, 0.8, 1.9), True),
    "12 numbers of video files as floats": (lambda root: files_of_video(root, 0.0, 0.0, 0.0), False),
    "12 a video file that nobody names": (lambda root: files_of_video(root, 0, None, 0), True),
    "12 a video file that is not there": (lambda root: files_of_video(root, 0, 3, 0), True),
    "17 wrong totals": (lambda root: info(root, total_episodes=4, total_frames=30), False),
    "25 null text that nobody uses": (lambda root: described(root, "note", "string", [1], ["x", None] * 12), False),
    "25 ragged lists that nobody uses": (lambda root: put(root, TABLE, note=[[1.0], [1.0, 2.0]] * 12), False),
    "29 another column of text": (lambda root: put(root, TASKS, category=["push", "open"]), False),
    "29b dictionary-encoded tasks": (
        lambda root: put(root, TASKS, task=pa.array(column(root, TASKS, "task")).dictionary_encode()), False),
    "43b nested lists that nobody uses": (
        lambda root: described(root, "tactile", "float32", [2, 2], pa.array([[[1.0, 2.0], [3.0, 4.0]]] * 24, pa.list_(pa.list_(pa.float32())))), False),
    "46 tasks as floats": (lambda root: tasks_as(root, lambda tasks: [float(task) for task in tasks]), False),
    "46 tasks as lists of one": (lambda root: tasks_as(root, lambda tasks: [[task] for task in tasks]), False),
    "57 indices as floats": (
        lambda root: put(root, TABLE, **{name: [float(value) for value in column(root, TABLE, name)]
                                         for name in ["index", "frame_index", "episode_index"]}), False),
}


def lerobot_items(root):
    fps = json.loads((root / "meta/info.json").read_text())["fps"]
    windows = {"action": [step / fps for step in range(HORIZON)]}
    dataset = LeRobotDataset(f"local/{root.name}", root=root, delta_timestamps=windows, video_backend="pyav", tolerance_s=1e-3)
    return [dataset[index] for index in range(len(dataset))]


def lerobot_equal(name, root, expected):
    """Compares what LeRobot's reader gives with what it gives for the whole dataset."""
    comparison = Comparison(f"  LeRobot of {name}")
    try:
        items = lerobot_items(root)
    except Exception as error:  # Whatever it stops at.
        cause = error.__cause__ or error
        return f"cannot read it, {type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}", comparison
    comparison.equal("numbers of samples", "the end", len(items), len(expected))
    # Columns that a case adds are compared with nothing.
    for index, (got, item) in enumerate(zip(items, expected)):
        for key, value in item.items():
            got_value = got[key] if isinstance(value, str) else got[key].numpy().reshape(value.shape)
            comparison.equal("values", f"{index}, {key}", got_value, value if isinstance(value, str) else value.numpy())
    return None, comparison


def ours_equal(name, example, root, expected):
    comparison, count = Comparison(f"  this project of {name}"), 0
    for sample, item in zip(ours(example, root), expected, strict=True):
        count += 1
        place = f"episode {sample['episode']}, frame {sample['frame']}"
        numbers(comparison, place, sample, item)
        for camera, frame in sample["frames"].items():
            comparison.close(f"{place}, {camera}", frame, np.round(item[camera].numpy().transpose(1, 2, 0) * 255).astype(np.uint8))
    comparison.equal("numbers of samples", "the end", count, len(expected))
    return comparison


def compare_cases(example, program, whole):
    expected, results = lerobot_items(whole), []
    for name, (damage, needs_repair) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            root, copy = Path(folder) / "case", Path(folder) / "copy"
            shutil.copytree(whole, root)
            damage(root)
            print(name, flush=True)
            if not needs_repair:
                results.append(ours_equal("the case", example, root, expected).report())
            why, comparison = lerobot_equal("the case", root, expected)
            if why or comparison.faults:
                # It is LeRobot's to refuse, or to take what it finds.
                others = f"{len(comparison.faults)} values are others than in the whole dataset"
                print(f"  LeRobot of the case: {why or others}")
            else:
                comparison.report()
            repaired = subprocess.run([program, "data", root, "--repair", copy], capture_output=True, text=True)
            if repaired.returncode:
                sys.exit(repaired.stderr)
            results.append(ours_equal("the repaired copy", example, copy, expected).report())
            why, comparison = lerobot_equal("the repaired copy", copy, expected)
            # Types of columns are not the metadata's: a repair leaves tables as they are.
            if why and comparison.counts == {} and name[:2] in TABLES_OF_OTHER_TYPES:
                print(f"  LeRobot of the repaired copy: {why}")
            else:
                results.append(comparison.report() and not why)
    return results


# Cases in tables, which LeRobot's reader may refuse and a repair does not change.
TABLES_OF_OTHER_TYPES = {"25", "46"}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cases"] and len(sys.argv) == 5:
        sys.exit(not all(compare_cases(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
    example, folders = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]
    if not folders or len(folders) % 2:
        sys.exit(__doc__)
    results = [result for v21, v30 in zip(folders[::2], folders[1::2]) for result in compare(example, v21, v30)]
    sys.exit(not all(results))
