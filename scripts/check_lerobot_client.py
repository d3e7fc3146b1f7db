#!/usr/bin/env python3
"""Has LeRobot's own RobotClient drive a robot that is none against `evo1 serve`, and holds the replies against LeRobot's
PolicyServer with the same policy.

    scripts/check_lerobot_client.py target/release/evo1

1. 200 steps of the client's control loop, with its threads as they are. Each chunk that came back is asked of LeRobot's server too, for the same observation and noise.
2. The same row of observations to both servers in step: fresh, late, doubled, too similar, and such that must go. Both have to
   answer and to leave out the same ones, with the same times, steps and actions.
3. A client that asks for another policy, or for another kind, is refused with the reason.

The robot's cameras come in another order than the policy's, one of them in another size and one upside down. Needs torch,
transformers and lerobot 0.6.1 with its `async` extra (grpcio). Prints the largest differences; exits 1 where one is above 1e-4.
"""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
# LeRobot writes its logs where it is started.
WORK = tempfile.TemporaryDirectory()
CALLED_FROM = os.getcwd()
os.chdir(WORK.name)

import grpc
import numpy as np
import torch
from lerobot.async_inference import policy_server, robot_client
from lerobot.async_inference.configs import PolicyServerConfig, RobotClientConfig
from lerobot.async_inference.helpers import TimedObservation
from lerobot.policies.evo1 import flow_matching
from lerobot.robots import Robot, RobotConfig
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks
from transformers import InternVLConfig, InternVLModel, PreTrainedTokenizerFast

TOLERANCE = 1e-4
STEPS = 200
FPS = 60
ACTIONS = 3


# The noise of this project: ChaCha8 of a seed, in a stream of its own.


def words(seed: int, count: int) -> np.ndarray:
    """The first 32-bit words of ChaCha8 as `rand` seeds it, in the stream `noise`."""
    key, state = [], seed
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) % 2**64
        shifted, turn = (((state >> 18) ^ state) >> 27) % 2**32, state >> 59
        key.append(((shifted >> turn) | (shifted << (32 - turn))) % 2**32)
    stream = 0xCBF29CE484222325
    for byte in b"noise":
        stream = (stream ^ byte) * 0x100000001B3 % 2**64
    out = []
    for block in range(-(-count // 16)):
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key, block, 0, stream % 2**32, stream >> 32]
        x = list(start)

        def quarter(a, b, c, d):
            for into, of, turned, by in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
                x[into] = (x[into] + x[of]) % 2**32
                mixed = x[turned] ^ x[into]
                x[turned] = ((mixed << by) | (mixed >> (32 - by))) % 2**32

        for _ in range(4):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        out += [(a + b) % 2**32 for a, b in zip(x, start)]
    return np.array(out[:count], np.uint32)


class Noise:
    """Stands in for torch in LeRobot's sampler: its uniform numbers are those of a seed that counts up."""

    seed = 0

    def __getattr__(self, name):
        return getattr(torch, name)

    def rand(self, batch, width, **options):
        values = torch.from_numpy((words(Noise.seed, batch * width) >> 8).astype(np.float32) * 2.0**-24)
        Noise.seed += 1
        return values.reshape(batch, width).to(**options)


@RobotConfig.register_subclass("none")
@dataclass
class NoRobotConfig(RobotConfig):
    frames: int = 0
    joints: list[str] = field(default_factory=lambda: ["base.pos", "arm.pos", "wrist.pos", "gripper.pos"])


class NoRobot(Robot):
    """Joints that go where they are told to, and two cameras that show noise."""

    config_class = NoRobotConfig
    name = "none"

    def __init__(self, config: NoRobotConfig):
        self.config, self.random = config, np.random.default_rng(5)
        self.joints = np.zeros(len(config.joints), np.float32)
        self.executed = []

    observation_features = property(lambda self: {**dict.fromkeys(self.config.joints, float), "cam1": (56, 56, 3), "cam0": (48, 64, 3)})
    action_features = property(lambda self: dict.fromkeys(self.config.joints, float))
    is_connected = is_calibrated = property(lambda self: True)

    def connect(self, calibrate=True): pass
    def calibrate(self): pass
    def configure(self): pass
    def disconnect(self): pass

    def get_observation(self):
        frame = lambda height, width: self.random.integers(0, 256, (height, width, 3), np.uint8)
        # A number of numpy's, and a frame that is turned over, which does not lie row by row.
        values = dict(zip(self.config.joints, [*map(float, self.joints[:-1]), self.joints[-1]]))
        return {**values, "cam0": frame(48, 64), "cam1": frame(56, 56)[::-1]}

    def send_action(self, action):
        self.executed.append(action)
        # Further than an action goes, so that observations differ enough to be looked at.
        self.joints = np.array(list(action.values()), np.float32) * 3 + len(self.executed) % 7
        return action


def make_robot(config):
    return NoRobot(config)


robot_client.make_robot_from_config = make_robot


def prepare(folder: Path) -> Path:
    """The fixture's policy as LeRobot's server loads it: with processors and a base model."""
    policy = folder / "tiny-lerobot"
    shutil.copytree(FIXTURES / "tiny-lerobot", policy)
    for file in (FIXTURES / "lerobot-processors").iterdir():
        shutil.copy(file, policy)
    base = folder / "base"
    InternVLModel(InternVLConfig.from_dict(json.loads((policy / "vlm_config.json").read_text()))).save_pretrained(base)
    PreTrainedTokenizerFast(tokenizer_file=str(policy / "tokenizer.json"), pad_token="<|endoftext|>", padding_side="right",
                            model_max_length=8192).save_pretrained(base)
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"vlm_model_name": str(base)}))
    return policy


class Server:
    """`evo1 serve`, or LeRobot's server, with a channel to it."""

    def __init__(self, address: str):
        self.address = address
        self.stub = services_pb2_grpc.AsyncInferenceStub(grpc.insecure_channel(address))

    def send(self, observation: TimedObservation):
        parts = send_bytes_in_chunks(pickle.dumps(observation), services_pb2.Observation, silent=True)
        self.stub.SendObservations(parts)

    def actions(self):
        data = self.stub.GetActions(services_pb2.Empty()).data
        return pickle.loads(data) if data else None


def lerobots_server() -> Server:
    policy_server.SUPPORTED_POLICIES.append("evo1")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    # Without actions it says so soon; without a pause it is as fast as it can be.
    config = PolicyServerConfig(fps=FPS, obs_queue_timeout=0.3, inference_latency=0)
    servicer = policy_server.PolicyServer(config)
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    result = Server(f"127.0.0.1:{port}")
    result.server, result.servicer = server, servicer
    return result


def client_of(server: Server, policy: str, kind: str = "evo1") -> robot_client.RobotClient:
    config = RobotClientConfig(policy_type=kind, pretrained_name_or_path=policy, robot=NoRobotConfig(), actions_per_chunk=ACTIONS,
                               task="pick up the block", server_address=server.address, fps=FPS, aggregate_fn_name="latest_only")
    return robot_client.RobotClient(config)


def difference(got, expected) -> float:
    """How far two chunks are apart in their actions; times and steps must be equal."""
    assert len(got) == len(expected) == ACTIONS, (len(got), len(expected))
    worst = 0.0
    for one, other in zip(got, expected):
        assert one.get_timestep() == other.get_timestep(), (one.get_timestep(), other.get_timestep())
        assert abs(one.get_timestamp() - other.get_timestamp()) < 1e-6
        mine, theirs = one.get_action(), other.get_action()
        assert mine.dtype == theirs.dtype == torch.float32 and mine.shape == theirs.shape, (mine, theirs)
        worst = max(worst, float((mine - theirs).abs().max()))
    return worst


def drive(ours: Server, theirs: Server, policy: str) -> float:
    """The client's own loop for 200 steps, and what LeRobot's server says to the observations that it was answered to."""
    client, sent, chunks = client_of(ours, policy), {}, []
    send, aggregate = client.send_observation, client._aggregate_action_queues
    client.send_observation = lambda observation: (sent.__setitem__(observation.get_timestamp(), observation), send(observation))[1]
    client._aggregate_action_queues = lambda actions, function: (chunks.append(actions), aggregate(actions, function))[1]
    assert client.start(), "the client is refused"
    receiver = threading.Thread(target=client.receive_actions, daemon=True)
    receiver.start()
    loop = threading.Thread(target=client.control_loop, kwargs={"task": "pick up the block"}, daemon=True)
    loop.start()
    start = time.time()
    while len(client.robot.executed) < STEPS:
        assert time.time() - start < 120 and loop.is_alive(), f"{len(client.robot.executed)} steps in {time.time() - start:.0f} s"
        time.sleep(0.02)
    client.shutdown_event.set()
    loop.join()
    receiver.join()
    client.channel.close()
    seconds = time.time() - start
    theirs_client = client_of(theirs, policy)
    assert theirs_client.start()
    Noise.seed, worst = 0, 0.0
    for chunk in chunks:
        observation = sent[chunk[0].get_timestamp()]
        observation.must_go = True
        theirs.send(observation)
        worst = max(worst, difference(chunk, theirs.actions()))
    print(f"{len(client.robot.executed)} steps in {seconds:.1f} s: {len(sent)} observations, {len(chunks)} chunks, actions differ by {worst:.1e}")
    return worst


def in_step(ours: Server, theirs: Server, policy: str) -> float:
    """One row of observations to both servers, asking for actions after each or after some."""
    for server in (ours, theirs):
        # On the stub's own connection.
        server.stub.Ready(services_pb2.Empty())
        robot = NoRobot(NoRobotConfig())
        features = robot_client.map_robot_keys_to_lerobot_features(robot)
        wanted = robot_client.RemotePolicyConfig("evo1", policy, features, ACTIONS, "cpu")
        server.stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(wanted)))
    # LeRobot's server compares with the last observation of the client before; this one begins with nothing.
    theirs.servicer.last_processed_obs = None
    Noise.seed = 0
    robot, random = NoRobot(NoRobotConfig()), np.random.default_rng(9)
    worst, answered, left_out = 0.0, 0, 0
    # Time step, how far the joints move, must go, whether actions are asked for then.
    row = [(0, 0.0, True, True), (0, 0.0, False, True), (1, 0.3, False, True), (1, 2.0, False, True), (1, 5.0, False, True),
           (0, 9.0, False, True), (2, 0.0, True, True), (2, 0.0, True, True), (3, 0.6, False, False), (4, 2.0, False, False),
           (5, 0.1, False, True), (5, 3.0, False, False), (6, 3.0, False, True), (6, 3.0, False, True), (7, 0.99, False, True),
           (7, 1.01, False, True), (8, 4.0, False, False), (2, 4.0, False, True)]
    for timestep, move, must_go, asks in row:
        direction = random.normal(size=4)
        robot.joints = (robot.joints + move * direction / np.linalg.norm(direction)).astype(np.float32)
        observation = TimedObservation(timestamp=1000.25 + timestep, timestep=timestep,
                                       observation=robot.get_observation() | {"task": "push"}, must_go=must_go)
        ours.send(observation)
        theirs.send(observation)
        if asks:
            got, expected = ours.actions(), theirs.actions()
            case = f"step {timestep}, moved {move}, must go {must_go}"
            assert (got is None) == (expected is None), f"{case}: evo1 {got}, LeRobot {expected}"
            if got is None:
                left_out += 1
                continue
            answered += 1
            worst = max(worst, difference(got, expected))
    print(f"in step: both answered {answered} times and {left_out} times not, actions differ by {worst:.1e}")
    assert answered > 5 and left_out > 3
    return worst


def refusals(ours: Server, policy: str) -> None:
    for name, kind, expected in [(policy, "act", "--policy_type=evo1"), ("user/another", "evo1", "--pretrained_name_or_path=")]:
        client = client_of(ours, name, kind)
        client.stub.Ready(services_pb2.Empty())
        try:
            client.stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(client.policy_config)))
            raise AssertionError(f"{kind} {name} is not refused")
        except grpc.RpcError as error:
            assert expected in error.details(), error.details()
            print("refused as it should be:", error.details())
    logging.disable(logging.ERROR)
    assert not client.start(), "the client takes note"


def main(evo1: str) -> int:
    logging.disable(logging.WARNING)
    flow_matching.torch = Noise()
    policy = str(prepare(Path(WORK.name)))
    process = subprocess.Popen([evo1, "serve", "--device", "flex", "--policy", policy, "--bind", "127.0.0.1:0", "--lerobot",
                                "127.0.0.1:0", "--lerobot-fps", str(FPS)], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        ours = Server(process.stdout.readline().split()[2].removeprefix("grpc://"))
        theirs = lerobots_server()
        worst = max(drive(ours, theirs, policy), in_step(ours, theirs, policy))
        refusals(ours, policy)
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(os.path.join(CALLED_FROM, sys.argv[1])))
