"""LeRobot's asynchronous inference without LeRobot: the messages of its client, for scripts that measure a server.

What LeRobot itself does is tested by check_lerobot_client.py. Needs grpcio and numpy.
"""

import pickle
import sys
import types
from dataclasses import dataclass, field

import grpc

SERVICE = "/transport.AsyncInference/"
PART = 2 * 1024 * 1024
BEGIN, MIDDLE, END = 1, 2, 3


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict = field(default_factory=dict)


@dataclass
class TimedObservation:
    timestamp: float
    timestep: int
    observation: dict
    must_go: bool = False


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: list


def stand_in():
    """Has pickles name these classes as LeRobot's, and torch's tensors be lists, where neither is installed."""
    for name in ("lerobot", "lerobot.async_inference", "lerobot.async_inference.helpers"):
        sys.modules[name] = types.ModuleType(name)
    for known in (RemotePolicyConfig, TimedObservation, TimedAction):
        known.__module__ = "lerobot.async_inference.helpers"
        setattr(sys.modules[known.__module__], known.__name__, known)
    torch = types.ModuleType("torch")
    torch.tensor = list
    sys.modules["torch"] = torch


def number(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


class Robot:
    """A client with joints and cameras, `{name: (height, width)}`."""

    def __init__(self, address: str, joints: list[str], cameras: dict, policy: str, actions: int):
        # Each robot has a connection of its own.
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 200),
                                                        ("grpc.max_reconnect_backoff_ms", 1000)])
        raw = dict(request_serializer=None, response_deserializer=None)
        self.calls = {name: self.channel.unary_unary(SERVICE + name, **raw) for name in ("Ready", "SendPolicyInstructions", "GetActions")}
        self.send = self.channel.stream_unary(SERVICE + "SendObservations", **raw)
        features = {"observation.state": {"dtype": "float32", "shape": (len(joints),), "names": joints}}
        for name, size in cameras.items():
            features[f"observation.images.{name}"] = {"dtype": "image", "shape": (*size, 3), "names": ["height", "width", "channels"]}
        self.instructions = RemotePolicyConfig("evo1", policy, features, actions)

    def start(self, timeout: float = 10):
        self.calls["Ready"](b"", timeout=timeout, wait_for_ready=True)
        data = pickle.dumps(self.instructions)
        self.calls["SendPolicyInstructions"](b"\x0a" + number(len(data)) + data, timeout=timeout)

    def observe(self, observation: TimedObservation, timeout: float = 10):
        data = pickle.dumps(observation)
        parts = [data[at:at + PART] for at in range(0, len(data), PART)]
        states = [END] if len(parts) == 1 else [BEGIN] + [MIDDLE] * (len(parts) - 2) + [END]
        messages = (b"\x08" + number(state) + b"\x12" + number(len(part)) + part for state, part in zip(states, parts))
        self.send(messages, timeout=timeout)

    def actions(self, timeout: float = 30) -> list[TimedAction]:
        """The next chunk; none after two seconds without an observation."""
        reply = self.calls["GetActions"](b"", timeout=timeout)
        at = 1
        while reply[at:at + 1] and reply[at] > 127:
            at += 1
        return pickle.loads(reply[at + 1:]) if reply else []

    def close(self):
        self.channel.close()
