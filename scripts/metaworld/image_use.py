"""Whether a served policy looks: the error of its actions with the right image, and with one of another episode.

    python collect.py --out held-out --episodes 10 --seed 41 --cameras corner2,behindGripper --keys image,behind_gripper
    python image_use.py held-out --url ws://127.0.0.1:9000

The dataset must be one that was not trained on. Frames are drawn from the first `--within` of each episode, where the hand
does not yet tell the goal; state and instruction are the frame's own in both cases, and the wrong image is a frame of the
same number in another episode of the same task. The error is the mean squared difference to the demonstrated x, y and z over
the first `--horizon` actions, as a share of the variance of the demonstrated ones: 1 is what their mean would have.
"""

import argparse
import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
from rollout import Remote


def episodes(root: Path, keys: list[str]) -> list[dict]:
    tasks = {}
    for line in (root / "meta/tasks.jsonl").read_text().splitlines():
        task = json.loads(line)
        tasks[task["task_index"]] = task["task"]
    found = []
    for path in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(path)
        views = []
        for key in keys:
            video = next(root.glob(f"videos/*/observation.images.{key}/{path.stem}.mp4"))
            with av.open(str(video)) as container:
                views.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        found.append({
            "task": tasks[table["task_index"][0].as_py()],
            "state": np.array(table["observation.state"].to_pylist(), np.float32),
            "action": np.array(table["action"].to_pylist(), np.float32),
            "frames": list(zip(*views)),
        })
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--keys", default="image,behind_gripper", help="the views, in the policy's order")
    parser.add_argument("--url", default="ws://127.0.0.1:9000")
    parser.add_argument("--within", type=int, default=14)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--horizon", type=int, default=4)
    args = parser.parse_args()
    for name, value in dict(size=224, order="bgr", state_dim=8, nested_mask=False, arm_key=None, dataset_key=None,
                            timeout=60.0, compress=False).items():
        setattr(args, name, value)
    remote, everything, rng = Remote(args), episodes(args.dataset, args.keys.split(",")), np.random.default_rng(0)
    print(f"{'task':42} {'frames':>6} {'right':>7} {'wrong':>7}")
    for task in dict.fromkeys(episode["task"] for episode in everything):
        own = [episode for episode in everything if episode["task"] == task]
        demonstrated, right, wrong = [], [], []
        for index, episode in enumerate(own):
            other = own[(index + int(rng.integers(1, len(own)))) % len(own)]
            for frame in range(0, min(args.within, len(episode["action"]) - args.horizon), args.every):
                demonstrated.append(episode["action"][frame : frame + args.horizon, :3].clip(-1, 1))
                for images, answers in [(episode["frames"], right), (other["frames"], wrong)]:
                    views = images[min(frame, len(images) - 1)]
                    reply = remote.chunk(list(views), episode["state"][frame], task)
                    answers.append(reply[: args.horizon, :3].clip(-1, 1))
        demonstrated, right, wrong = (np.array(values) for values in (demonstrated, right, wrong))
        variance = demonstrated.var(axis=0).mean()
        errors = [((answers - demonstrated) ** 2).mean() / variance for answers in (right, wrong)]
        print(f"{task:42} {len(demonstrated):6} {errors[0]:7.3f} {errors[1]:7.3f}")
    remote.close()


if __name__ == "__main__":
    main()
