"""Evo-1, the vision-language-action model: camera frames, an instruction and a robot's state in, a chunk of robot actions out."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, SupportsFloat, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "ActionQueue",
    "Chunk",
    "ChunkGuidance",
    "DeviceError",
    "Error",
    "Guidance",
    "ObservationError",
    "Policy",
    "PolicyError",
    "PredictionError",
    "__version__",
    "keep_freed_memory",
]

__version__: str

_Frames: TypeAlias = npt.NDArray[np.uint8]
_Floats: TypeAlias = npt.NDArray[np.float32]
_Images: TypeAlias = Mapping[str, _Frames | None] | Sequence[_Frames | None]
_State: TypeAlias = npt.NDArray[np.floating[Any]] | Sequence[SupportsFloat] | Sequence[Sequence[SupportsFloat]]
_Dtype: TypeAlias = Literal["f32", "bf16", "f16", "mixed", "tf32"]
_Profile: TypeAlias = Literal["paper", "official", "official-flash", "lerobot"]

def keep_freed_memory() -> bool:
    """Keeps memory that was freed for the next allocation, in the whole process; True where the allocator can."""

class Error(Exception):
    """What evo1 raises; its subclasses say where the remedy lies."""

class DeviceError(Error):
    """A device is not in this build or on this machine, or has failed."""

class PolicyError(Error):
    """A policy cannot be loaded."""

class ObservationError(Error):
    """An observation is not one of this policy's, or an option not possible."""

class PredictionError(Error):
    """A prediction is not finite."""

@final
class Policy:
    """A policy: camera frames, a state and an instruction in, a chunk of actions out."""

    @staticmethod
    def load(
        path: str | PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: _Dtype = "f32",
        profile: _Profile | None = None,
        strict: bool = False,
        adapter: str | PathLike[str] | None = None,
    ) -> Policy:
        """A policy directory, `hf://owner/name[@revision]`, or the embedded policy when `path` is None."""

    @staticmethod
    def random(
        preset: Literal["tiny", "evo1"] = "tiny", *, seed: int = 0, device: str = "auto", dtype: _Dtype = "f32"
    ) -> Policy:
        """A policy of random weights, for tests and timings."""

    def info(self) -> dict[str, Any]:
        """What the policy is: sizes, cameras, robots, device."""

    def predict(
        self,
        images: _Images,
        state: _State,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] | None = None,
        steps: int | None = None,
        embodiment: int | None = None,
        arm_key: str | None = None,
        dataset_key: str | None = None,
        smoothing: float | None = None,
        guidance: ChunkGuidance | None = None,
    ) -> _Floats:
        """The actions for an observation, (horizon, width), in the robot's units; for a batch (batch, horizon, width)."""

    def plan(
        self,
        images: _Images,
        state: _State,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        embodiment: int | None = None,
        arm_key: str | None = None,
        dataset_key: str | None = None,
        smoothing: float | None = None,
        guidance: ChunkGuidance | None = None,
    ) -> Chunk:
        """`predict` for one observation as a `Chunk`: with times, and with what an `ActionQueue` needs."""

@final
class Chunk:
    """A prediction: actions in the robot's units, and what a queue needs besides."""

    @property
    def actions(self) -> _Floats:
        """Actions in the robot's units, (horizon, width)."""

    @property
    def normalized(self) -> _Floats:
        """The same as the flow ended in them: normalised, as wide as the model's actions."""

    @property
    def milliseconds(self) -> dict[str, float]:
        """Milliseconds of each stage of the prediction; of a batch, of all of it."""

    def __len__(self) -> int: ...

@final
class Guidance:
    """How a chunk is guided to what is left of the one before (real-time chunking)."""

    def __new__(
        cls,
        method: Literal["identity", "jacobian"] = "identity",
        schedule: Literal["linear", "exp", "ones", "zeros"] = "linear",
        execution_horizon: int = 10,
        max_weight: float = 10.0,
    ) -> Guidance: ...

@final
class ChunkGuidance:
    """What guides the next prediction: `ActionQueue.guidance` makes it, `Policy.plan` takes it."""

@final
class ActionQueue:
    """Actions that wait to be executed."""

    def __new__(cls, replan_every: int | None = None, guidance: Guidance | None = None) -> ActionQueue: ...
    def wants_chunk(self) -> bool:
        """Whether it is time for a new chunk."""

    def next_action(self) -> _Floats | None:
        """The next action in the robot's units, (width,); None when none is left."""

    def push(self, chunk: Chunk, delay: int = 0) -> None:
        """Replaces what is left by a new chunk, whose first `delay` actions belong to the time since its observation."""

    def guidance(self, delay: int = 0) -> ChunkGuidance | None:
        """What guides the next prediction, when `delay` more actions are executed until it is there."""

    def clear(self) -> None:
        """Forgets all actions, as at the start of an episode."""

    def __len__(self) -> int: ...
