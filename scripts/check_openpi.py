#!/usr/bin/env python3
"""Has openpi's own client package talk to the server, at the root as openpi's examples do, and at its URL with a token.

    pip install openpi-client
    scripts/check_openpi.py target/release/evo1
    scripts/check_openpi.py target/release/evo1 --example openpi/examples/simple_client/main.py

DROID and LIBERO are served by the embedded policy, whose one view is the camera that `--camera` names; ALOHA, with its two arms, by
one that is trained for a step on the dataset of the fixtures. The robots' other cameras are left out. With `--example`, openpi's simple client runs as it is for each of its robots, given host and port (it needs tyro, polars and tqdm).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

DATASET = Path(__file__).resolve().parent.parent / "fixtures" / "lerobot-datasets" / "v21"
picture = lambda *shape: np.random.randint(256, size=shape, dtype=np.uint8)
# Robots of openpi's examples: which of their cameras are the views, and what they send.
ROBOTS = {
    "aloha_sim": (("cam_high", "cam_left_wrist"), lambda: {
        "state": np.ones(14), "prompt": "open the drawer",
        "images": {name: picture(3, 224, 224) for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")}}),
    "droid": (("exterior_image_1_left",), lambda: {
        "observation/exterior_image_1_left": picture(224, 224, 3), "observation/wrist_image_left": picture(224, 224, 3),
        "observation/joint_position": np.random.rand(7), "observation/gripper_position": np.random.rand(1), "prompt": "open the drawer"}),
    "libero": (("observation/image",), lambda: {
        "observation/state": np.random.rand(8), "observation/image": picture(224, 224, 3),
        "observation/wrist_image": picture(224, 224, 3), "prompt": "open the drawer"}),
}


def two_arms(evo1: str, folder: Path) -> list[str]:
    """A policy of 14 joints and two cameras."""
    data = {"path": str(DATASET), "suite_config": {"state_key": "observation.state.arms", "action_key": "action.arms"}}
    recipe = {"policy": {"preset": "tiny"}, "data": {"data_groups": {"arms": {"set": data}}}, "steps": 1, "batch_size": 1,
              "output": str(folder / "run")}
    # YAML, of which JSON is a part.
    (folder / "train.yaml").write_text(json.dumps(recipe))
    subprocess.run([evo1, "train", "--config", folder / "train.yaml"], check=True, stdout=subprocess.DEVNULL)
    return ["--policy", str(next((folder / "run" / "checkpoints").glob("*1")))]


class Server:
    def __init__(self, evo1: str, *arguments: str):
        self.process = subprocess.Popen([evo1, "serve", "--device", "flex", "--bind", "127.0.0.1:0", *arguments], stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def check(policy: WebsocketClientPolicy, observation):
    metadata = policy.get_server_metadata()
    width = metadata["robots"][0]["action_dim"]
    for _ in range(3):
        reply = policy.infer(observation())
        assert reply["actions"].shape == (metadata["horizon"], width) and np.isfinite(reply["actions"]).all()
        assert reply["server_timing"]["infer_ms"] > 0 and reply["policy_timing"]["infer_ms"] > 0
    return reply["actions"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evo1")
    parser.add_argument("--example", help="openpi's examples/simple_client/main.py")
    args = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    for robot, (cameras, observation) in ROBOTS.items():
        policy = two_arms(args.evo1, Path(folder.name)) if robot == "aloha_sim" else []
        named = [word for camera in cameras for word in ("--camera", camera)]
        with Server(args.evo1, "--protocol", "openpi", *named, *policy) as server:
            actions = check(WebsocketClientPolicy("127.0.0.1", server.port), observation)
            print(f"{robot}: actions {actions.shape} {actions.dtype}")
            if args.example:
                # It uses parts of rich that it leaves to others to import.
                run = "import rich.console, rich.table, runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
                given = ["--host", "127.0.0.1", "--port", str(server.port), "--env", robot.upper()]
                subprocess.run([sys.executable, "-c", run, args.example, *given], check=True, capture_output=True)
                print(f"{robot}: openpi's simple client runs")
    with Server(args.evo1, "--token", "abc") as server:
        observation = lambda: {"observation/image": picture(224, 224, 3), "observation/state": np.zeros(8), "prompt": "open the drawer"}
        policy = WebsocketClientPolicy(f"{server.url}/openpi", api_key="abc")
        check(policy, observation)
        try:
            policy.infer({"observation/state": np.zeros(8), "prompt": "open the drawer"})
            raise AssertionError("an observation without a camera frame must be refused")
        except RuntimeError as error:
            print("refused as it should be:", str(error).splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
