"""Success rates of a policy in Meta-World, through a Gymnasium environment and without a server.

    python examples/python/metaworld.py                       # the embedded policy, one goal of each task
    python examples/python/metaworld.py --policy runs/metaworld-tiny/checkpoints/step-00005000 --episodes 10 --seeds 5

Needs `scripts/metaworld/requirements.txt`, libOSMesa (or MUJOCO_GL=egl) and `evo1`. The same goals, frames and seeds as
`scripts/metaworld/rollout.py` with the options in `evo1/assets/metaworld/README.md`, and so the same successes.
"""

import argparse
import sys
from pathlib import Path

import evo1
import gymnasium as gym
import numpy as np

# In place of this file's own folder, which would hide the package of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[2] / "scripts/metaworld")
import mw_common as mw  # noqa: E402

CAMERAS = ["corner2", "behindGripper"]


class MetaWorld(gym.Env):
    """A task of Meta-World with the cameras of the embedded policy. A step takes several actions, one row each, and looks after
    the last of them. `reset(seed=…, options={"goal": …})` chooses the goal."""

    def __init__(self, task: str, horizon: int, size: int = 224, quality: str = "fast", max_steps: int = 400):
        self.name, self.size, self.quality, self.max_steps = task, size, quality, max_steps
        self.prompt = mw.prompt_for(task)
        pixels = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({camera: pixels for camera in CAMERAS}),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (mw.STATE_DIM,), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(-1, 1, (horizon, mw.ACTION_DIM), np.float32)
        self.task = self.camera = self.state = None
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.task is None or (seed is not None and seed != self.task.seed):
            self.close()
            self.task = mw.Task(self.name, seed or 0)
            self.task.reset(0)
            self.camera = mw.Camera(self.task.env, self.size, None, self.quality)
        self.task.reset((options or {}).get("goal", 0))
        self.state, *_ = self.task.step(np.zeros(mw.ACTION_DIM))
        self.steps = 0
        return self.observation(), {}

    def step(self, actions):
        total = 0.0
        for action in actions:
            self.state, reward, done, success = self.task.step(action)
            total, self.steps = total + reward, self.steps + 1
            is_late = done or self.steps >= self.max_steps
            if success or is_late:
                break
        return self.observation(), total, success, is_late, {"is_success": success}

    def observation(self):
        return {
            "pixels": {camera: self.camera.rgb(self.task.env, camera) for camera in CAMERAS},
            "agent_pos": mw.state_of(self.state),
        }

    def close(self):
        if self.camera is not None:
            self.camera.close()
            self.task = self.camera = None


def episode(policy: evo1.Policy, env: MetaWorld, seed: int, goal: int, first: int):
    """One episode: whether it succeeded, its steps, and its predictions, whose noise has the seeds `first`, `first + 1`, …"""
    horizon, predictions = env.action_space.shape[0], 0
    observation, _ = env.reset(seed=seed, options={"goal": goal})
    while True:
        actions = policy.predict(observation["pixels"], observation["agent_pos"], env.prompt, seed=first + predictions)
        predictions += 1
        observation, _, terminated, truncated, info = env.step(actions[:horizon])
        if terminated or truncated:
            return info["is_success"], env.steps, predictions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="a folder or hf://owner/name; the embedded policy when left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--tasks", default="reach-v3,push-v3,drawer-open-v3,button-press-v3")
    parser.add_argument("--first-seed", type=int, default=2010, help="goals; those up to 1000 are for training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=1, help="per task and seed")
    parser.add_argument("--horizon", type=int, default=4, help="actions executed of each chunk")
    args = parser.parse_args()
    policy = evo1.Policy.load(args.policy, device=args.device, dtype=args.dtype)
    predictions, rates = 0, []
    for task in args.tasks.split(","):
        env, wins = MetaWorld(task, args.horizon), 0
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for goal in range(args.episodes):
                success, steps, made = episode(policy, env, seed, goal, predictions)
                wins, predictions = wins + success, predictions + made
                print(f"{task} seed {seed} goal {goal}: {'success' if success else 'failure'} after {steps} steps", flush=True)
        env.close()
        rates.append(wins / (args.seeds * args.episodes))
        print(f"{task}: {wins}/{args.seeds * args.episodes}", flush=True)
    print(f"mean over tasks: {np.mean(rates):.3f}, {predictions} predictions")


if __name__ == "__main__":
    main()
