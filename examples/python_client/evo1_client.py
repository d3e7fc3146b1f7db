"""A client of `evo1 serve` in one file, for robots that run Python. Needs websockets and numpy.

    python evo1_client.py --url ws://127.0.0.1:9000

As a library:

    with Evo1Client("ws://127.0.0.1:9000") as policy:
        chunk = policy.predict([front, wrist], state, "open the drawer")   # (horizon, the robot's width)
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.request

import numpy as np
from websockets.sync.client import connect

VIEWS, MAX_ACTION_DIM = 3, 24
MAX_SIZE = 100_000_000


class Evo1Error(Exception):
    """The server refused a request. `kind` says why; the connection goes on."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Evo1Client:
    """One connection. It answers the server's pings and sends its own in a thread of its own."""

    def __init__(self, url: str = "ws://127.0.0.1:9000", token: str | None = None, timeout: float = 600.0):
        headers = {"Authorization": f"Bearer {token}"} if token else None
        query = ("&" if "?" in url else "?") + "errors=json&reply=object"
        self.timeout = timeout
        self.milliseconds: dict[str, float] = {}
        self.socket = connect(url + query, additional_headers=headers, max_size=MAX_SIZE, compression=None)
        # http of ws, https of wss.
        info = re.sub(r"^ws(s?://[^/?]*).*", r"http\1/info", url)
        with urllib.request.urlopen(urllib.request.Request(info, headers=headers or {}), timeout=timeout) as reply:
            self.info = json.load(reply)

    def action_dim(self, arm_key: str | None, dataset_key: str | None) -> int:
        """Values of the robot's actions, as far as the server knows them."""
        key = "/".join(part for part in (arm_key, dataset_key) if part)
        robots = {robot["key"]: robot["action_dim"] for robot in self.info["robots"]}
        width = self.info["action_dim"] or robots.get(key)
        if width is None:
            raise ValueError(f"give action_dim, or a robot's arm_key and dataset_key: the server knows {sorted(robots)}")
        return width

    def predict(self, frames, state, prompt: str, action_dim: int | None = None, **options) -> np.ndarray:
        """The action chunk, [horizon, action_dim], in the robot's units.

        frames: up to three RGB images, uint8 [height, width, 3], of any size; None for a camera that is absent; in the order
            of `info["cameras"]`
        action_dim: values of the robot's actions; the server's own when left out
        options: seed, steps, deadline_ms, arm_key, dataset_key, embodiment, smoothing, rtc, request_id
        """
        action_dim = action_dim or self.action_dim(options.get("arm_key"), options.get("dataset_key"))
        frames = list(frames) + [None] * (VIEWS - len(frames))
        blank = [[[0, 0, 0]]]
        request = {
            # The server swaps the first and third channel, so that images travel as BGR.
            "image": [blank if f is None else np.asarray(f, np.uint8)[:, :, ::-1].tolist() for f in frames],
            "image_mask": [int(f is not None) for f in frames],
            "state": np.asarray(state, np.float32).ravel().tolist(),
            "prompt": prompt,
            "action_mask": [int(i < action_dim) for i in range(MAX_ACTION_DIM)],
            **options,
        }
        self.socket.send(json.dumps(request))
        reply = json.loads(self.socket.recv(timeout=self.timeout))
        if isinstance(reply, dict) and "error" in reply:
            raise Evo1Error(**reply["error"])
        if isinstance(reply, dict):
            self.milliseconds, reply = reply["milliseconds"], reply["actions"]
        chunk = np.asarray(reply, np.float32)
        if chunk.ndim != 2 or not np.isfinite(chunk).all():
            raise ValueError(f"the reply is no chunk of finite actions: shape {chunk.shape}")
        return chunk[:, :action_dim]

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def main():
    parser = argparse.ArgumentParser(description="Ask a policy server for one chunk, for a grey image.")
    parser.add_argument("--url", default="ws://127.0.0.1:9000")
    parser.add_argument("--token")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--state-dim", type=int, default=8)
    parser.add_argument("--action-dim", type=int, help="the server's own when left out")
    parser.add_argument("--prompt", default="Open the drawer")
    args = parser.parse_args()
    with Evo1Client(args.url, args.token) as policy:
        start = time.perf_counter()
        frame = np.full((args.size, args.size, 3), 128, np.uint8)
        chunk = policy.predict([frame], np.zeros(args.state_dim), args.prompt, args.action_dim)
        took = 1e3 * (time.perf_counter() - start)
        print(np.array2string(chunk, precision=4, suppress_small=True))
        print(f"{took:.1f} ms, of which the server took", {k: round(v, 1) for k, v in policy.milliseconds.items()})


if __name__ == "__main__":
    main()
