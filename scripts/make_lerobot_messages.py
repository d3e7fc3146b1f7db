#!/usr/bin/env python3
"""Writes fuzz/corpus/lerobot: messages as LeRobot's RobotClient pickles them, for the fuzz target and for tests.

    scripts/make_lerobot_messages.py

Needs lerobot 0.6.1 and torch. The values are those that evo1-serve/tests/lerobot.rs expects.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
from lerobot.utils.feature_utils import hw_to_dataset_features

CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus" / "lerobot"
TYPES = {"arm.pos": float, "hand.pos": float, "front": (2, 3, 3), "wrist": (1, 2, 3)}
FEATURES = hw_to_dataset_features(TYPES, "observation", use_video=False)
FRONT = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
WRIST = np.array([[[250, 251, 252], [253, 254, 255]]], np.uint8)


def observation(values: dict, timestep: int = 7, must_go: bool = False) -> TimedObservation:
    return TimedObservation(timestamp=1700000000.5, timestep=timestep, observation=values, must_go=must_go)


values = {"arm.pos": 0.25, "hand.pos": -1.5, "front": FRONT, "wrist": WRIST, "task": "fold the towel"}
CORPUS.mkdir(parents=True, exist_ok=True)
messages = {
    "instructions": RemotePolicyConfig("evo1", "user/scripted", FEATURES, 3),
    "another-policy": RemotePolicyConfig("act", "user/scripted", FEATURES, 3),
    "observation": observation(values),
    # numpy's numbers, no task, and frames that do not lie row by row.
    "numbers": observation({"arm.pos": np.float32(0.25), "hand.pos": np.array(-1.5), "front": np.asfortranarray(FRONT),
                            "wrist": np.ascontiguousarray(WRIST[:, ::-1])[:, ::-1]}, np.int64(7).item()),
    "tensors": observation(OrderedDict(values, **{"arm.pos": torch.tensor(0.25), "hand.pos": torch.tensor(-1.5, dtype=torch.float64),
                                                  "front": torch.from_numpy(FRONT.copy()),
                                                  "wrist": torch.from_numpy(np.ascontiguousarray(WRIST.transpose(2, 0, 1))).permute(1, 2, 0)})),
    "late": observation(values, timestep=2**40, must_go=True),
}
for name, message in messages.items():
    (CORPUS / name).write_bytes(pickle.dumps(message, protocol=4))
(CORPUS / "observation-5").write_bytes(pickle.dumps(messages["observation"], protocol=5))


class Call:
    """What an attacker sends: a name and what it is called with."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


hostile = dict(values, front=Call(os.system, "touch executed"))
(CORPUS / "hostile").write_bytes(pickle.dumps(observation(hostile), protocol=4))
