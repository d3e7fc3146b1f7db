"""Collect scripted-expert demonstrations from Meta-World as a LeRobot v2.1 dataset.

    python collect.py --out DIR --tasks reach-v3,push-v3 --episodes 50 --size 224
    python collect.py --out DIR --tasks all --episodes 50 --size 128 --noise 0,0.5 --stride 2
    python collect.py --out DIR --tasks reach-v3,push-v3 --episodes 50 --seed 11 --noise 0,0.3 --wander --stride 2

Writes data/chunk-*/episode_*.parquet, videos/chunk-*/<camera key>/episode_*.mp4 (h264, yuv420p),
meta/{info.json,tasks.jsonl,episodes.jsonl,episodes_stats.jsonl,stats.json} and collection.json: how many
episodes of each task were tried and how many were kept. Only successful episodes are kept. Nothing is downloaded.

Every task has a process of its own, as many at once as `--jobs` says. The same command goes on after an interruption: a
task that is finished lies in DIR.parts, which goes when the dataset is whole. What is collected depends on the arguments
alone, not on the number of processes.

The recorded action is always the expert's at the recorded state, whatever is executed. A bool column `is_sample` says
which frames a policy may be trained on: not those that were never rendered (`--stride`; the video repeats the frame
before), and not those of which a part of the coming `--chunk` actions was not what was executed (`--wander`).
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import zlib
from fractions import Fraction
from pathlib import Path

import mw_common as mw
import numpy as np
from tasks import named

import av
import pyarrow as pa
import pyarrow.parquet as pq


def write_video(path: Path, frames: list[np.ndarray], fps: int, codec: str, gop: int, crf: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"g": str(gop), "crf": str(crf)}
    options |= {"preset": "8"} if codec == "libsvtav1" else {"preset": "veryfast"}
    with av.open(str(path), "w") as out:
        st = out.add_stream(codec, rate=Fraction(fps), options=options)
        st.height, st.width = frames[0].shape[:2]
        st.pix_fmt = "yuv420p"
        for f in frames:
            for p in st.encode(av.VideoFrame.from_ndarray(f, format="rgb24")):
                out.mux(p)
        for p in st.encode():
            out.mux(p)


def vec_stats(x: np.ndarray, quantiles: bool = False) -> dict:
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    d = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0)}
    if quantiles:
        d |= {"q01": np.quantile(x, 0.01, axis=0), "q99": np.quantile(x, 0.99, axis=0)}
    return {k: v.tolist() for k, v in d.items()} | {"count": [len(x)]}


def image_stats(frames: list[np.ndarray]) -> dict:
    pick = frames[:: max(1, len(frames) // 20)]
    x = np.stack(pick).astype(np.float64) / 255.0
    red = {"min": x.min((0, 1, 2)), "max": x.max((0, 1, 2)), "mean": x.mean((0, 1, 2)), "std": x.std((0, 1, 2))}
    return {k: v.reshape(3, 1, 1).tolist() for k, v in red.items()} | {"count": [len(pick)]}


def scalar(dtype: str) -> dict:
    return {"dtype": dtype, "shape": [1], "names": None}


def build_features(args, codec_name: str) -> dict:
    video = {
        "dtype": "video",
        "shape": [args.size, args.size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": args.size, "video.width": args.size, "video.codec": codec_name,
            "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": args.fps,
            "video.channels": 3, "has_audio": False,
        },
    }
    f = {f"observation.images.{c}": video for c in args.keys}
    f["observation.state"] = {"dtype": "float32", "shape": [mw.STATE_DIM], "names": mw.STATE_NAMES}
    f["action"] = {"dtype": "float32", "shape": [mw.ACTION_DIM], "names": mw.ACTION_NAMES}
    f |= {"timestamp": scalar("float32")}
    f |= {k: scalar("int64") for k in ("frame_index", "episode_index", "index", "task_index")}
    f["is_sample"] = scalar("bool")
    return f


def arrow_schema() -> pa.Schema:
    hf = {"info": {"features": {}}}
    fields = []
    for name, dim in (("observation.state", mw.STATE_DIM), ("action", mw.ACTION_DIM)):
        fields.append(pa.field(name, pa.list_(pa.float32(), dim)))
        hf["info"]["features"][name] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": dim, "_type": "Sequence"}
    scalars = {"timestamp": ("float32", pa.float32())}
    scalars |= {k: ("int64", pa.int64()) for k in ("frame_index", "episode_index", "index", "task_index")}
    scalars |= {"is_sample": ("bool", pa.bool_())}
    for name, (dtype, t) in scalars.items():
        fields.append(pa.field(name, t))
        hf["info"]["features"][name] = {"dtype": dtype, "_type": "Value"}
    return pa.schema(fields, metadata={"huggingface": json.dumps(hf)})


WANDER_TURN = 8  # steps between two random directions
GOALS_PER_SEED = 50


def wander_windows(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Steps [start, end) in which a random direction is executed: at the start, under way, and once near the goal."""
    first = int(rng.integers(0, 25))
    second = int(rng.integers(25, 60))
    third = second + 10 + int(rng.integers(25, 45))
    return [(0, first), (second, second + 10), (third, third + 8)]


def rollout(task: mw.Task, cam: mw.Camera, index: int, args, rng: np.random.Generator):
    """One expert episode: whether it succeeded, states, the expert's actions, frames of each camera, samples."""
    obs = task.reset(index)
    policy = task.expert()
    noise = rng.uniform(*args.noise)
    windows = wander_windows(rng) if args.wander else []
    last_wander = windows[-1][1] if windows else 0
    direction = np.zeros(3)
    states, actions, samples, frames = [], [], [], [[] for _ in args.cameras]
    hold = None
    for step in range(args.max_steps):
        a = np.clip(np.asarray(policy.get_action(obs), np.float32), -1, 1)
        # A chunk that begins here must not reach into a window: what followed was not what it says.
        is_sample = step % args.stride == 0 and not any(s - args.chunk < step < e for s, e in windows)
        for buf, c in zip(frames, args.cameras):
            buf.append(cam.rgb(task.env, c) if is_sample or not buf else buf[-1])
        states.append(mw.state_of(obs))
        actions.append(a)
        samples.append(is_sample)
        executed = a + rng.normal(0, noise, a.shape) if noise > 0 else a
        for start, end in windows:
            if start <= step < end:
                if (step - start) % WANDER_TURN == 0:
                    direction = rng.uniform(-1, 1, 3)
                executed = np.append(direction, a[3])
        obs, _, done, success = task.step(executed)
        if success and hold is None and step >= last_wander:
            hold = args.tail
        if hold is not None:
            if hold == 0:
                break
            hold -= 1
        if done:
            break
    return hold is not None, np.stack(states), np.stack(actions), np.asarray(samples), frames


TRIES_PER_EPISODE = 4
CHUNK_EPISODES = 1000


def statistics(columns: dict[str, np.ndarray], quantiles: bool = False) -> dict:
    return {k: vec_stats(v, quantiles) for k, v in columns.items()}


def write_episode(args, part: Path, number: int, state, action, samples, frames) -> dict:
    """Writes an episode of a task to its part of the dataset; the statistics of its frames."""
    crf = args.crf if args.crf is not None else (30 if args.codec == "libsvtav1" else 23)
    for key, f in zip(args.keys, frames):
        write_video(part / f"{key}_{number}.mp4", f, args.fps, args.codec, args.gop, crf)
    np.savez(part / f"{number}.npz", state=state, action=action, is_sample=samples)
    return {f"observation.images.{k}": image_stats(f) for k, f in zip(args.keys, frames)}


def collect_task(args, name: str, wanted: int, part: Path) -> None:
    """Writes the successful episodes of one task, numbered from 0, to `part`, which appears when it is whole."""
    rng = np.random.default_rng([args.seed, zlib.crc32(name.encode())])
    work = part.with_name(part.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kept = index = 0
    cam, episodes = None, []
    while kept < wanted and index < TRIES_PER_EPISODE * wanted + 10:
        if index % GOALS_PER_SEED == 0:
            if cam:
                cam.close()
            task = mw.Task(name, args.seed + index // GOALS_PER_SEED)
            task.reset(0)
            cam = mw.Camera(task.env, args.size, args.render_size, args.quality)
        ok, state, action, samples, frames = rollout(task, cam, index % GOALS_PER_SEED, args, rng)
        index += 1
        if not ok:
            continue
        episodes.append(write_episode(args, work, kept, state, action, samples, frames))
        kept += 1
    if cam:
        cam.close()
    (work / "part.json").write_text(json.dumps({"tried": index, "images": episodes}))
    work.rename(part)


def assemble(args, out: Path, parts: Path) -> dict:
    """Makes one dataset of the tasks' parts."""
    codec_name = {"libx264": "h264", "libsvtav1": "av1"}[args.codec]
    schema = arrow_schema()
    meta = out / "meta"
    meta.mkdir(parents=True)
    episodes, ep_stats, all_state, all_action, shares = [], [], [], [], {}
    total = sampled = 0
    for ti, name in enumerate(args.names):
        part = json.loads((parts / name / "part.json").read_text())
        shares[name] = {"tried": part["tried"], "kept": len(part["images"])}
        for i, images in enumerate(part["images"]):
            ep = len(episodes)
            chunk = f"chunk-{ep // CHUNK_EPISODES:03d}"
            record = np.load(parts / name / f"{i}.npz")
            state, action, samples = record["state"], record["action"], record["is_sample"]
            n = len(state)
            for key in args.keys:
                video = out / f"videos/{chunk}/observation.images.{key}/episode_{ep:06d}.mp4"
                video.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(parts / name / f"{key}_{i}.mp4", video)
            scalars = {
                "timestamp": (np.arange(n) / args.fps).astype(np.float32),
                "frame_index": np.arange(n),
                "episode_index": np.full(n, ep),
                "index": np.arange(total, total + n),
                "task_index": np.full(n, ti),
            }
            cols = {
                "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel(), pa.float32()), mw.STATE_DIM),
                "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel(), pa.float32()), mw.ACTION_DIM),
                **scalars,
                "is_sample": samples,
            }
            table = out / f"data/{chunk}/episode_{ep:06d}.parquet"
            table.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(cols, schema=schema), table)
            stats = statistics({"observation.state": state, "action": action, **scalars})
            ep_stats.append({"episode_index": ep, "stats": images | stats})
            episodes.append({"episode_index": ep, "tasks": [mw.prompt_for(name)], "length": n})
            all_state.append(state)
            all_action.append(action)
            total += n
            sampled += int(samples.sum())
    count = len(episodes)
    info = {
        "codebase_version": "v2.1", "robot_type": "sawyer_metaworld", "total_episodes": count, "total_frames": total,
        "total_tasks": len(args.names), "total_videos": count * len(args.keys), "total_chunks": -(-count // CHUNK_EPISODES),
        "chunks_size": CHUNK_EPISODES, "fps": args.fps, "splits": {"train": f"0:{count}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": build_features(args, codec_name),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    stats = statistics({"observation.state": np.concatenate(all_state), "action": np.concatenate(all_action)}, True)
    (meta / "stats.json").write_text(json.dumps(stats, indent=4))
    tasks = [{"task_index": i, "task": mw.prompt_for(n)} for i, n in enumerate(args.names)]
    for fn, rows in (("tasks", tasks), ("episodes", episodes), ("episodes_stats", ep_stats)):
        (meta / f"{fn}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (out / "collection.json").write_text(json.dumps(shares, indent=1))
    return {"episodes": count, "tried": sum(s["tried"] for s in shares.values()), "frames": total, "samples": sampled}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--tasks", default="reach-v3,push-v3,drawer-open-v3,button-press-v3", help="names or groups with commas between, or all")
    p.add_argument("--episodes", default="5", help="successful episodes of each task: one number, or one for each task")
    p.add_argument("--size", type=int, default=224, help="stored image side")
    p.add_argument("--render-size", type=int, default=None, help="default 1.5 x size; 480 is the official client's")
    p.add_argument("--cameras", default="corner2,gripperPOV", help="Meta-World camera names")
    p.add_argument("--keys", default="image,wrist_image", help="their names in the dataset")
    p.add_argument("--quality", choices=["full", "soft", "fast"], default="fast", help="full: Meta-World's; soft: smaller shadow map, no antialiasing; fast: no shadows either")
    p.add_argument("--fps", type=int, default=80, help="80 is the simulated rate of env steps")
    p.add_argument("--seed", type=int, default=0, help="first goal seed, each has 50 goals; evaluate with others")
    p.add_argument("--noise", default="0", help="std of noise added to the executed action; LOW,HIGH: drawn for each episode")
    p.add_argument("--wander", action="store_true", help="execute random directions for a while, three times an episode")
    p.add_argument("--stride", type=int, default=1, help="render every Nth step only; the others are no samples")
    p.add_argument("--chunk", type=int, default=8, help="actions of a chunk, kept clear of wandering")
    p.add_argument("--tail", type=int, default=5, help="frames kept after success")
    p.add_argument("--max-steps", type=int, default=300)
    p.add_argument("--codec", choices=["libx264", "libsvtav1"], default="libx264")
    p.add_argument("--gop", type=int, default=2)
    p.add_argument("--crf", type=int, default=None, help="default 23 (h264), 30 (av1)")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="tasks collected at once")
    p.add_argument("--force", action="store_true", help="begin anew, whatever is there")
    args = p.parse_args()
    args.cameras, args.keys = args.cameras.split(","), args.keys.split(",")
    if len(args.cameras) != len(args.keys):
        p.error("--cameras and --keys differ in length")
    args.names = named(args.tasks)
    if args.tasks == "all":
        args.names.sort()
    counts = [int(x) for x in args.episodes.split(",")]
    counts = counts * len(args.names) if len(counts) == 1 else counts
    if len(counts) != len(args.names):
        p.error("--episodes and --tasks differ in length")
    noise = [float(x) for x in args.noise.split(",")]
    args.noise = (noise[0], noise[-1])
    parts = args.out.with_name(args.out.name + ".parts")
    if args.force:
        shutil.rmtree(args.out, ignore_errors=True)
        shutil.rmtree(parts, ignore_errors=True)
    if args.out.exists():
        p.error(f"{args.out} exists (use --force)")
    parts.mkdir(parents=True, exist_ok=True)
    # What was collected with other arguments is not gone on with.
    said = {k: str(v) for k, v in sorted(vars(args).items()) if k not in ("out", "jobs", "force")}
    record = parts / "arguments.json"
    if record.exists() and json.loads(record.read_text()) != said:
        p.error(f"{parts} was collected with other arguments (use --force)")
    record.write_text(json.dumps(said, indent=1))

    start = time.time()
    left = [(args, n, c, parts / n) for n, c in zip(args.names, counts) if not (parts / n).exists()]
    finished = len(args.names) - len(left)
    with multiprocessing.get_context("spawn").Pool(min(args.jobs, max(len(left), 1))) as pool:
        for name, wanted in pool.imap_unordered(collect_one, left):
            part = json.loads((parts / name / "part.json").read_text())
            finished += 1
            kept = len(part["images"])
            short = "" if kept == wanted else f", {wanted} wanted: the expert fails too often"
            print(f"{finished:2}/{len(args.names)} {name}: {kept} episodes of {part['tried']} tried{short}, {time.time() - start:.0f} s", flush=True)
    if empty := [n for n in args.names if not json.loads((parts / n / "part.json").read_text())["images"]]:
        print(f"no successful episode of {', '.join(empty)}", file=sys.stderr)
        return 1
    work = args.out.with_name(args.out.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    summary = assemble(args, work, parts)
    work.rename(args.out)
    shutil.rmtree(parts)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(json.dumps(summary | {"bytes": size, "seconds": round(time.time() - start, 1)}))
    return 0


def collect_one(job) -> tuple[str, int]:
    args, name, wanted, part = job
    collect_task(args, name, wanted, part)
    return name, wanted


if __name__ == "__main__":
    sys.exit(main())
