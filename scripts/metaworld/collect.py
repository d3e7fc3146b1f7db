"""Collect scripted-expert demonstrations from Meta-World as a LeRobot v2.1 dataset.

    python collect.py --out DIR --tasks reach-v3,push-v3 --episodes 50 --size 224
    python collect.py --out DIR --tasks reach-v3,push-v3 --episodes 250,150 --seed 1 --noise 0,0.5 --stride 2
    python collect.py --out DIR --tasks reach-v3,push-v3 --episodes 50 --seed 11 --noise 0,0.3 --wander --stride 2

Writes data/chunk-000/episode_*.parquet, videos/chunk-000/<camera key>/episode_*.mp4 (h264,
yuv420p) and meta/{info.json,tasks.jsonl,episodes.jsonl,episodes_stats.jsonl,stats.json}.
Only successful episodes are kept. Nothing is downloaded.

The recorded action is always the expert's at the recorded state, whatever is executed. A bool column `is_sample` says
which frames a policy may be trained on: not those that were never rendered (`--stride`; the video repeats the frame
before), and not those of which a part of the coming `--chunk` actions was not what was executed (`--wander`).
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from fractions import Fraction
from pathlib import Path

import mw_common as mw
import numpy as np

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


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--tasks", default="reach-v3,push-v3,drawer-open-v3,button-press-v3")
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
    p.add_argument("--force", action="store_true")
    args = p.parse_args()
    args.cameras, args.keys = args.cameras.split(","), args.keys.split(",")
    if len(args.cameras) != len(args.keys):
        p.error("--cameras and --keys differ in length")
    names = args.tasks.split(",")
    counts = [int(x) for x in args.episodes.split(",")]
    counts = counts * len(names) if len(counts) == 1 else counts
    if len(counts) != len(names):
        p.error("--episodes and --tasks differ in length")
    noise = [float(x) for x in args.noise.split(",")]
    args.noise = (noise[0], noise[-1])
    crf = args.crf if args.crf is not None else (30 if args.codec == "libsvtav1" else 23)
    codec_name = {"libx264": "h264", "libsvtav1": "av1"}[args.codec]
    out: Path = args.out
    if out.exists():
        if not args.force:
            p.error(f"{out} exists (use --force)")
        shutil.rmtree(out)
    (out / "meta").mkdir(parents=True)
    (out / "data/chunk-000").mkdir(parents=True)
    rng = np.random.default_rng(args.seed)
    schema = arrow_schema()
    episodes, ep_stats, all_state, all_action = [], [], [], []
    ep = total = sampled = attempts = 0
    t_sim = t_enc = 0.0
    for ti, (name, wanted) in enumerate(zip(names, counts)):
        kept = index = 0
        cam = None
        while kept < wanted:
            if index >= 4 * wanted + 10:
                print(f"{name}: the expert fails too often", file=sys.stderr)
                return 1
            if index % GOALS_PER_SEED == 0:
                if cam:
                    cam.close()
                task = mw.Task(name, args.seed + index // GOALS_PER_SEED)
                task.reset(0)
                cam = mw.Camera(task.env, args.size, args.render_size, args.quality)
            t0 = time.time()
            ok, state, action, samples, frames = rollout(task, cam, index % GOALS_PER_SEED, args, rng)
            t_sim += time.time() - t0
            index += 1
            attempts += 1
            if not ok:
                continue
            n = len(state)
            t0 = time.time()
            for key, f in zip(args.keys, frames):
                write_video(out / f"videos/chunk-000/observation.images.{key}/episode_{ep:06d}.mp4", f, args.fps, args.codec, args.gop, crf)
            t_enc += time.time() - t0
            cols = {
                "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel(), pa.float32()), mw.STATE_DIM),
                "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel(), pa.float32()), mw.ACTION_DIM),
                "timestamp": pa.array((np.arange(n) / args.fps).astype(np.float32)),
                "frame_index": pa.array(np.arange(n), pa.int64()),
                "episode_index": pa.array(np.full(n, ep), pa.int64()),
                "index": pa.array(np.arange(total, total + n), pa.int64()),
                "task_index": pa.array(np.full(n, ti), pa.int64()),
                "is_sample": pa.array(samples, pa.bool_()),
            }
            pq.write_table(pa.table(cols, schema=schema), out / f"data/chunk-000/episode_{ep:06d}.parquet")
            st = {f"observation.images.{k}": image_stats(f) for k, f in zip(args.keys, frames)}
            st |= {"observation.state": vec_stats(state), "action": vec_stats(action)}
            st |= {k: vec_stats(np.asarray(cols[k])) for k in ("timestamp", "frame_index", "episode_index", "index", "task_index")}
            ep_stats.append({"episode_index": ep, "stats": st})
            episodes.append({"episode_index": ep, "tasks": [mw.prompt_for(name)], "length": n})
            all_state.append(state)
            all_action.append(action)
            total, ep, kept = total + n, ep + 1, kept + 1
            sampled += int(samples.sum())
        if cam:
            cam.close()
        print(f"{name}: {kept} episodes kept of {index} tried, {np.mean([e['length'] for e in episodes[-kept:]]):.0f} frames each", flush=True)
    meta = out / "meta"
    info = {
        "codebase_version": "v2.1", "robot_type": "sawyer_metaworld", "total_episodes": ep, "total_frames": total,
        "total_tasks": len(names), "total_videos": ep * len(args.keys), "total_chunks": 1, "chunks_size": 1000,
        "fps": args.fps, "splits": {"train": f"0:{ep}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": build_features(args, codec_name),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    stats = {"observation.state": vec_stats(np.concatenate(all_state), True), "action": vec_stats(np.concatenate(all_action), True)}
    (meta / "stats.json").write_text(json.dumps(stats, indent=4))
    tasks = [{"task_index": i, "task": mw.prompt_for(n)} for i, n in enumerate(names)]
    for fn, rows in (("tasks", tasks), ("episodes", episodes), ("episodes_stats", ep_stats)):
        (meta / f"{fn}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(json.dumps({"episodes": ep, "attempts": attempts, "frames": total, "samples": sampled, "bytes": size, "simulate_and_render_s": round(t_sim, 1), "encode_s": round(t_enc, 1), "frames_per_s": round(total / (t_sim + t_enc), 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
