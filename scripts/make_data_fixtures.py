"""Makes `fixtures/lerobot-datasets`: small LeRobot datasets, and what other programs read from them.

    python scripts/make_data_fixtures.py OUT

needs lerobot (with its dataset extra), PyAV, pyarrow, safetensors, torchvision, and FFmpeg with libx264 and libsvtav1 (PyAV brings
them). The datasets are synthetic:

    v21     LeRobot 2.1: three episodes, H.264 with B frames, AV1, columns for every suite
    v30     the same, converted by LeRobot's own converter
    images  LeRobot 2.1 with pictures in its tables

`reference.safetensors` holds what PyAV and LeRobot's reader give for them, and what the suites and statistics give in
NumPy, written here a second time from their description. Tensors are named `dataset.part`.
"""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

FPS = 10
LENGTHS = [7, 12, 5]
SIZE = (48, 32)
HORIZON = 4
TASKS = ["Push the red block.", "Open the drawer."]
VIDEOS = {
    # Frames are shown in another order than they are stored in.
    "observation.images.front": ("libx264", {"g": "8", "bf": "2", "crf": "18", "x264-params": "b-adapt=0:scenecut=0"}),
    "observation.images.wrist": ("libsvtav1", {"g": "2", "crf": "20", "preset": "8"}),
}
VECTORS = {
    "observation.state": 8,
    "action": 7,
    "observation.state.cartesian_position": 6,
    "action.cartesian_position": 6,
    "observation.state.arms": 14,
    "action.arms": 14,
}
SCALARS = ["observation.state.gripper_position", "action.gripper_position", "weight"]


def picture(episode, frame, camera):
    """A gradient that drifts, with a square that moves."""
    width, height = SIZE
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    red = (x * 4 + 9 * frame + 40 * episode) % 256
    green = (y * 6 + 30 * camera) % 256
    blue = np.full_like(x, (20 * frame) % 256)
    rgb = np.stack([red, green, blue], -1).astype(np.uint8)
    at = (3 * frame + 5 * episode) % (width - 8)
    rgb[8:16, at : at + 8] = [250, 240, 30]
    return rgb


def video(path, episode, camera, codec, options, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in range(count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(episode, frame, camera), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def columns(rng, episode, first, count):
    data = {name: rng.normal(size=(count, width)).astype(np.float32) for name, width in VECTORS.items()}
    data |= {name: rng.uniform(size=count).astype(np.float64) for name in SCALARS}
    # A gripper that has only two positions, and a dimension that never moves.
    data["action"][:, 6] = rng.integers(0, 2, size=count)
    data["observation.state"][:, 7] = 0.25
    data["timestamp"] = (np.arange(count) / FPS).astype(np.float32)
    data["frame_index"] = np.arange(count)
    data["episode_index"] = np.full(count, episode)
    data["index"] = np.arange(first, first + count)
    # The last episode changes its task half-way.
    data["task_index"] = np.array([0, 1])[np.arange(count) * 2 // count] if episode == 2 else np.full(count, episode % 2)
    data["is_bad"] = np.arange(count) % 5 == 3
    return data


def array(values):
    return pa.array(list(values), pa.list_(pa.float32())) if values.ndim == 2 else pa.array(values)


def statistics(values):
    values = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [len(values)],
    }


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def feature(values):
    dtype = "bool" if values.dtype == bool else str(values.dtype)
    return {"dtype": dtype, "shape": [values.shape[1] if values.ndim == 2 else 1], "names": None}


def write_dataset(root, with_videos):
    rng = np.random.default_rng(5)
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    episodes, stats, features, first = [], [], {}, 0
    cameras = list(VIDEOS) if with_videos else ["observation.images.front"]
    for episode, count in enumerate(LENGTHS if with_videos else LENGTHS[:1]):
        data = columns(rng, episode, first, count)
        if not with_videos:
            data = {name: data[name] for name in data if name not in SCALARS and "arms" not in name and "cart" not in name}
        first += count
        features = {name: feature(values) for name, values in data.items()}
        arrays = {name: array(values) for name, values in data.items()}
        stats.append({"episode_index": episode, "stats": {name: statistics(values) for name, values in data.items()}})
        for number, camera in enumerate(cameras):
            frames = np.stack([picture(episode, frame, number) for frame in range(count)])
            per_channel = statistics(np.moveaxis(frames, -1, 1).reshape(count, 3, -1).transpose(0, 2, 1).reshape(-1, 3) / 255)
            shaped = {key: [[[value]] for value in values] for key, values in per_channel.items() if key != "count"}
            stats[-1]["stats"][camera] = shaped | {"count": [count]}
            features[camera] = {
                "dtype": "video" if with_videos else "image",
                "shape": [SIZE[1], SIZE[0], 3],
                "names": ["height", "width", "channels"],
            }
            if with_videos:
                path = root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
                video(path, episode, number, *VIDEOS[camera], count)
            else:
                arrays[camera] = pa.array([png(frame) for frame in frames], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        pq.write_table(pa.table(arrays), root / f"data/chunk-000/episode_{episode:06d}.parquet")
        tasks = [TASKS[task] for task in sorted(set(data["task_index"].tolist()))]
        episodes.append({"episode_index": episode, "tasks": tasks, "length": count})
    info = {
        "codebase_version": "v2.1",
        "robot_type": "synthetic",
        "total_episodes": len(episodes),
        "total_frames": first,
        "total_tasks": len(TASKS),
        "total_videos": len(episodes) * len(cameras) if with_videos else 0,
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if with_videos else None,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=1) + "\n")
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)])
    write_lines(root / "meta/episodes.jsonl", episodes)
    write_lines(root / "meta/episodes_stats.jsonl", stats)


def png(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "png", optimize=True)
    return {"bytes": file.getvalue(), "path": None}


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_episodes(root):
    tables = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    return [{name: np.array(table[name].to_pylist()) for name in table.column_names if "images" not in name} for table in tables]


def reference_v21(root, out):
    for episode, data in enumerate(read_episodes(root)):
        for name in ["observation.state", "action", "timestamp"]:
            out[f"v21.episode{episode}.{name}"] = data[name].astype(np.float32)
        for camera in VIDEOS:
            path = root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
            out[f"v21.episode{episode}.{camera}"] = decoded(path)


def reference_lerobot(root, out):
    """What LeRobot's reader gives for every frame, windows of actions included."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    windows = {"action": [step / FPS for step in range(HORIZON)]}
    dataset = LeRobotDataset("local/v30", root=root, delta_timestamps=windows, video_backend="pyav", tolerance_s=1e-3)
    items = [dataset[index] for index in range(len(dataset))]
    stack = lambda key: np.stack([np.asarray(item[key]) for item in items])
    out["v30.state"] = stack("observation.state")
    out["v30.actions"] = stack("action")
    out["v30.action_is_pad"] = stack("action_is_pad").astype(np.uint8)
    out["v30.timestamp"] = stack("timestamp").reshape(-1)
    out["v30.episode"] = stack("episode_index").reshape(-1)
    out["v30.task"] = np.array([TASKS.index(item["task"]) for item in items])
    for camera in VIDEOS:
        out[f"v30.{camera}"] = np.round(stack(camera).transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def windows(rows):
    """Windows of actions that begin at every frame, the last action repeated."""
    last = len(rows) - 1
    return np.stack([[rows[min(at + step, last)] for step in range(HORIZON)] for at in range(len(rows))])


def relative(action, state, dims):
    action = action.copy()
    action[:, dims] -= state[:, dims]
    return action


def reference_suites(root, out):
    first_six, arms = list(range(6)), [*range(6), *range(7, 13)]
    everything = {}
    for episode, data in enumerate(read_episodes(root)):
        data = {name: values.astype(np.float32) for name, values in data.items()}
        state, action = data["observation.state"], data["action"]
        droid = {
            part: np.c_[data[f"{part}.cartesian_position"], 1 - data[f"{part}.gripper_position"]]
            for part in ["observation.state", "action"]
        }
        left_right = data["observation.state.arms"], data["action.arms"]
        custom = np.c_[data["action.cartesian_position"], data["action.gripper_position"]]
        suites = {
            "default": (state, relative(action, state, first_six)),
            "franka_ee_pose": (state, relative(action, state, first_six)),
            "franka_ee_pose_2": (state, relative(action, state, [2, 3])),
            "franka_joint_angle": (state, relative(action, state, list(range(7)))),
            "droid_eef": (droid["observation.state"], relative(droid["action"], droid["observation.state"], first_six)),
            "aloha_joint_angle": (left_right[0], relative(left_right[1], left_right[0], arms)),
            "metaworld": (state, action),
            "custom": (state, relative(custom, state, [0, 1, 4])),
        }
        for name, (state, action) in suites.items():
            states, actions = everything.setdefault(name, ([], []))
            states.append(state)
            actions.append(windows(action))
    for name, (states, actions) in everything.items():
        out[f"suite.{name}.state"], out[f"suite.{name}.actions"] = np.concatenate(states), np.concatenate(actions)
        reference_statistics(name, states, actions, out)
    # Two datasets, one of the first and one of the last episode, with statistics in common.
    states, actions = everything["default"]
    reference_statistics("merged", [states[0], states[2]], [actions[0], actions[2]], out)


def reference_statistics(name, states, actions, out):
    states, actions = np.concatenate(states), np.concatenate(actions)
    for part, values in [("state", states), ("action", actions.reshape(-1, actions.shape[-1]))]:
        values = values.astype(np.float64)
        for statistic, result in {
            "min": values.min(0),
            "max": values.max(0),
            "mean": values.mean(0),
            "std": values.std(0),
            "q01": np.quantile(values, 0.01, axis=0),
            "q99": np.quantile(values, 0.99, axis=0),
            "q10": np.quantile(values, 0.1, axis=0),
            "q90": np.quantile(values, 0.9, axis=0),
        }.items():
            out[f"statistics.{name}.{part}.{statistic}"] = result


def reference_augmentation(out):
    """What torchvision makes of a Pillow picture, each step on the last one's result."""
    import torchvision.transforms.functional as F
    from torchvision.transforms import InterpolationMode

    width, height = 60, 44
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rgb = np.stack([x * 4, y * 5, (x * y) % 256], -1).astype(np.uint8)
    rgb[10:20, 20:34] = [240, 30, 60]
    picture = Image.fromarray(rgb)
    out["augment.original"] = rgb
    steps = {
        "crop": lambda p: F.resized_crop(p, 1, 2, 42, 57, [40, 40], InterpolationMode.BICUBIC),
        "rotate": lambda p: F.rotate(p, 3.7, InterpolationMode.BICUBIC),
        "saturation": lambda p: F.adjust_saturation(p, 1.35),
        "hue": lambda p: F.adjust_hue(p, -0.06),
        "contrast": lambda p: F.adjust_contrast(p, 0.7),
        "brightness": lambda p: F.adjust_brightness(p, 1.2),
    }
    for name, step in steps.items():
        picture = step(picture)
        out[f"augment.{name}"] = np.asarray(picture)


def main(out):
    shutil.rmtree(out, ignore_errors=True)
    tensors = {}
    write_dataset(out / "v21", with_videos=True)
    write_dataset(out / "images", with_videos=False)
    # The converter works in place and keeps the old folder beside.
    shutil.copytree(out / "v21", out / "v30")
    command = [sys.executable, "-m", "lerobot.scripts.convert_dataset_v21_to_v30", "--repo-id=local/v30"]
    subprocess.run([*command, f"--root={out / 'v30'}", "--push-to-hub=false"], check=True)
    shutil.rmtree(out / "v30_old")
    reference_v21(out / "v21", tensors)
    reference_lerobot(out / "v30", tensors)
    reference_suites(out / "v21", tensors)
    reference_augmentation(tensors)
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, out / "reference.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
