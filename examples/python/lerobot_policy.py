"""`Evo1Policy`: an Evo-1 policy of this project that LeRobot's evaluation loop takes as one of its own.

    policy = Evo1Policy.load("hf://owner/name", device="cuda", dtype="bf16")
    result = eval_policy(env, policy, *processors(), *processors(), n_episodes=10)

Run by itself it is evaluated on a toy environment, with LeRobot's `eval_policy`. Needs LeRobot 0.6 and `evo1`; weights and
normalisation are `evo1`'s, so that LeRobot's processors have nothing to do, and neither weights nor memory are PyTorch's.
"""

from __future__ import annotations

import argparse
from collections import deque

import gymnasium as gym
import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.evo1.configuration_evo1 import Evo1Config
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import eval_policy
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_IMAGES, OBS_STATE
from torch import Tensor

import evo1


class Evo1Policy(PreTrainedPolicy):
    """Batched actions of an `evo1.Policy`; a chunk's actions are executed before the next one is asked for."""

    config_class = Evo1Config
    name = "evo1"

    def __init__(self, policy: evo1.Policy, cameras: list[str] | None = None, seed: int = 0):
        """`cameras`: the environment's cameras in the order of the views, where the policy knows no names."""
        info = policy.info()
        self.cameras = cameras or info["cameras"]["names"]
        names = self.cameras or [f"view{view}" for view in range(info["views"])]
        side = info["image_size"]
        features = {f"{OBS_IMAGES}.{name.rsplit('.')[-1]}": PolicyFeature(FeatureType.VISUAL, (3, side, side)) for name in names}
        features[OBS_STATE] = PolicyFeature(FeatureType.STATE, (info["state_dim"] or info["max_state_dim"],))
        action = PolicyFeature(FeatureType.ACTION, (info["action_dim"] or info["max_action_dim"],))
        config = Evo1Config(
            input_features=features,
            output_features={ACTION: action},
            chunk_size=info["horizon"],
            n_action_steps=info["n_action_steps"],
            max_views=info["views"],
            device="cpu",
            use_amp=False,
        )
        super().__init__(config)
        self.policy, self.seed = policy, seed
        self.knows_names = bool(info["cameras"]["names"])
        # LeRobot asks a policy for the device of its parameters.
        self.register_buffer("place", torch.zeros(1))
        self.reset()

    @classmethod
    def load(cls, path: str | None = None, *, cameras: list[str] | None = None, seed: int = 0, **options) -> Evo1Policy:
        """`evo1.Policy.load` with its options; `from_pretrained` in LeRobot's words."""
        return cls(evo1.Policy.load(path, **options), cameras, seed)

    def reset(self):
        self.actions: deque[Tensor] = deque()

    def predict_action_chunk(self, batch: dict[str, Tensor], **_) -> Tensor:
        """Actions in the robot's units, (batch, horizon, width)."""
        images = {key: value for key, value in batch.items() if key == OBS_IMAGE or key.startswith(f"{OBS_IMAGES}.")}
        images = {key: self.frames(value) for key, value in images.items()}
        if not self.knows_names and self.cameras:
            images = [images[f"{OBS_IMAGES}.{camera}"] for camera in self.cameras]
        state = batch[OBS_STATE].to("cpu", torch.float32).numpy()
        actions = self.policy.predict(images, state, list(batch["task"]), seed=self.seed)
        # Noise that has led into a dead end must not come again.
        self.seed += len(state)
        return torch.from_numpy(actions)

    def select_action(self, batch: dict[str, Tensor], **_) -> Tensor:
        if not self.actions:
            chunk = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            self.actions.extend(chunk.unbind(1))
        return self.actions.popleft()

    @staticmethod
    def frames(images: Tensor) -> np.ndarray:
        """LeRobot's (batch, 3, height, width) from 0 to 1 as the grey levels that they were made of."""
        return (images * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()

    def get_optim_params(self) -> dict:
        raise NotImplementedError("`evo1 train` trains")

    def forward(self, batch: dict[str, Tensor]):
        raise NotImplementedError("`evo1 train` trains")


def processors() -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """A pre- and a postprocessor that change nothing."""
    same = {"to_transition": lambda value: value, "to_output": lambda value: value}
    return PolicyProcessorPipeline(steps=[], **same), PolicyProcessorPipeline(steps=[], **same)


class Toy(gym.Env):
    """A point that actions move, before two cameras."""

    metadata = {"render_fps": 10}

    def __init__(self, state_dim: int, max_steps: int = 20):
        pixels = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        cameras = gym.spaces.Dict({"front": pixels, "wrist": pixels})
        position = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float64)
        self.observation_space = gym.spaces.Dict({"pixels": cameras, "agent_pos": position})
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self._max_episode_steps, self.task_description, self.task = max_steps, "Press the button", "press"
        self.state, self.steps = np.zeros(state_dim), 0

    def observe(self):
        level = np.uint8(np.clip(128 + 100 * self.state[0], 0, 255))
        frame = np.full((64, 64, 3), level, np.uint8)
        return {"pixels": {"front": frame, "wrist": frame[::-1].copy()}, "agent_pos": self.state.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(0, 0.1, self.state.shape), 0
        return self.observe(), {"is_success": False}

    def step(self, action):
        self.state[:3] += 0.01 * np.asarray(action[:3])
        self.steps += 1
        is_over = self.steps >= self._max_episode_steps
        return self.observe(), float(self.state[0]), False, is_over, {"is_success": bool(self.state[1] > 0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="a folder or hf://owner/name; the embedded policy when left out")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    policy = Evo1Policy.load(args.policy, cameras=["front", "wrist"], device=args.device)
    state_dim = policy.config.input_features[OBS_STATE].shape[0]
    env = gym.vector.SyncVectorEnv([lambda: Toy(state_dim) for _ in range(2)])
    result = eval_policy(env, policy, *processors(), *processors(), n_episodes=4, start_seed=0)
    print(result["aggregated"])
    assert len(result["per_episode"]) == 4


if __name__ == "__main__":
    main()
