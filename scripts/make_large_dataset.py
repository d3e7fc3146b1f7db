"""Makes a large LeRobot dataset of version 2.1 or 3.0, with empty videos: for how long it takes to open it.

    python scripts/make_large_dataset.py OUT [v3.0|v2.1 [EPISODES [FRAMES]]]

needs NumPy and pyarrow. 100,000 episodes of 10 frames by default; rows of 1,000 episodes are a table file of version 3. Time it with
`/usr/bin/time -v evo1 data OUT`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = ["observation.images.front", "observation.images.wrist"]
PER_FILE = 1000


def rows(first, last, frames):
    episodes = np.repeat(np.arange(first, last), frames)
    frame = np.tile(np.arange(frames), last - first)
    vector = lambda width: pa.FixedSizeListArray.from_arrays(np.zeros(len(frame) * width, np.float32), width)
    return pa.table({
        "observation.state": vector(8),
        "action": vector(7),
        "timestamp": (frame / 10).astype(np.float32),
        "frame_index": frame,
        "episode_index": episodes,
        "index": np.arange(first * frames, last * frames),
        "task_index": np.zeros(len(frame), np.int64),
    })


def write_info(root, version, episodes, frames, data, video):
    number = lambda dtype, size: {"dtype": dtype, "shape": [size], "names": None}
    features = {"observation.state": number("float32", 8), "action": number("float32", 7), "timestamp": number("float32", 1)}
    features |= {name: number("int64", 1) for name in ["frame_index", "episode_index", "index", "task_index"]}
    features |= {name: {"dtype": "video", "shape": [48, 64, 3], "names": None} for name in CAMERAS}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps({
        "codebase_version": version, "total_episodes": episodes, "total_frames": episodes * frames, "fps": 10,
        "chunks_size": 1000, "data_path": data, "video_path": video, "features": features,
    }))


def version_3(root, episodes, frames):
    write_info(root, "v3.0", episodes, frames, "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
               "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4")
    pq.write_table(pa.table({"task_index": [0], "task": ["Do it."]}), root / "meta/tasks.parquet")
    index = np.arange(episodes)
    file = index // PER_FILE
    within = index % PER_FILE * frames / 10
    columns = {"episode_index": index, "tasks": [["Do it."]] * episodes, "length": np.full(episodes, frames),
               "dataset_from_index": index * frames, "dataset_to_index": (index + 1) * frames,
               "data/chunk_index": file // 1000, "data/file_index": file % 1000}
    for camera in CAMERAS:
        columns |= {f"videos/{camera}/chunk_index": file // 1000, f"videos/{camera}/file_index": file % 1000,
                    f"videos/{camera}/from_timestamp": within, f"videos/{camera}/to_timestamp": within + frames / 10}
    # Statistics, which stand beside in every dataset.
    for name, width in [("observation.state", 8), ("action", 7)]:
        for kind in ["min", "max", "mean", "std", "q01", "q99"]:
            columns[f"stats/{name}/{kind}"] = [np.zeros(width)] * episodes
    table = pa.table(columns)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    for number, first in enumerate(range(0, episodes, 10 * PER_FILE)):
        pq.write_table(table.slice(first, 10 * PER_FILE), root / f"meta/episodes/chunk-000/file-{number:03d}.parquet")
    for number, first in enumerate(range(0, episodes, PER_FILE)):
        last = min(first + PER_FILE, episodes)
        pq.write_table(rows(first, last, frames), root / f"data/chunk-000/file-{number:03d}.parquet")
        for camera in CAMERAS:
            path = root / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def version_2(root, episodes, frames):
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    write_info(root, "v2.1", episodes, frames, data, video)
    lines = lambda name, values: (root / "meta" / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    lines("tasks.jsonl", [{"task_index": 0, "task": "Do it."}])
    lines("episodes.jsonl", [{"episode_index": at, "tasks": ["Do it."], "length": frames} for at in range(episodes)])
    for at in range(episodes):
        numbers = {"episode_chunk": at // 1000, "episode_index": at}
        paths = [root / data.format(**numbers), *(root / video.format(video_key=camera, **numbers) for camera in CAMERAS)]
        for path in paths:
            if at % 1000 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        pq.write_table(rows(at, at + 1, frames), paths[0])


def main(out, version="v3.0", episodes=100_000, frames=10):
    make = {"v3.0": version_3, "v2.1": version_2}[version]
    make(Path(out), int(episodes), int(frames))


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
