"""A client of `evo1 serve` in one file, for robots that run Python. Needs websockets and numpy.

    python evo1_client.py --url ws://127.0.0.1:9000

As a library:

    with Evo1Client("ws://127.0.0.1:9000") as policy:
        chunk = policy.predict([front, wrist], state, "open the drawer")   # (horizon, the robot's width)

A chunk is that of the observation it was asked for, or an exception. Each request has an id, and replies with another are
passed over. After whatever went wrong on the way, a reply that came too late included, the connection is given up; the next
request makes a new one. No observation is sent twice: by then there is a newer one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Callable

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

VIEWS = 3
MAX_SIZE = 100_000_000


class Evo1Error(Exception):
    """The server refused a request. `kind` says why; the connection goes on."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Evo1Client:
    """One connection, which is made anew when it has ended. It answers the server's pings and sends its own in a thread of
    its own.

    connect_timeout: seconds in which a connection must stand
    write_timeout: seconds in which a message must be sent
    read_timeout: seconds from then on in which its reply must be there; `deadline_ms` of a request makes the server give up
        too, and the connection goes on
    tries, pause, longest_pause: how a connection that has ended is made anew: so many tries, with pauses of seconds between
        them, each twice as long as the one before
    on_event: is called with "lost", "failed" or "restored", and the exception or None
    """

    def __init__(
        self,
        url: str = "ws://127.0.0.1:9000",
        token: str | None = None,
        connect_timeout: float = 5.0,
        write_timeout: float = 5.0,
        read_timeout: float = 30.0,
        tries: int = 5,
        pause: float = 0.1,
        longest_pause: float = 2.0,
        on_event: Callable[[str, Exception | None], None] = lambda event, error: None,
    ):
        self.url = url + ("&" if "?" in url else "?") + "errors=json&reply=object"
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.connect_timeout, self.write_timeout, self.read_timeout = connect_timeout, write_timeout, read_timeout
        self.tries, self.pause, self.longest_pause, self.on_event = tries, pause, longest_pause, on_event
        self.milliseconds: dict[str, float] = {}
        self.requests = 0
        self.socket = None
        self._connect()

    def _connect(self):
        """Connects, and asks what robot the policy is for: `info`."""
        # http of ws, https of wss; of the policy that the path names.
        url = re.sub(r"^ws(s?://[^/?]*(?:/policy/[^/?]*)?).*", r"http\1/info", self.url)
        request = urllib.request.Request(url, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=self.connect_timeout) as reply:
                self.info = json.load(reply)
        except urllib.error.HTTPError as error:
            # Its body says why and what to do.
            raise ConnectionError(f"{url}: {error}: {error.read(1000).decode(errors='replace').strip()}") from error
        self.socket = connect(
            self.url,
            additional_headers=self.headers,
            open_timeout=self.connect_timeout,
            max_size=MAX_SIZE,
            compression=None,
        )

    def _reconnect(self):
        pause = self.pause
        for attempt in range(1, self.tries + 1):
            try:
                self._connect()
            except (OSError, WebSocketException) as error:
                self.on_event("failed", error)
                if attempt == self.tries:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, self.longest_pause)
            else:
                return self.on_event("restored", None)
        raise ConnectionError("the connection has ended, and is not to be made anew")

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

        frames: up to three RGB images, uint8 [height, width, 3], of any size; None for a camera that is absent; by the names of
            `info["cameras"]` in a dict, or in their order
        action_dim: values of the robot's actions; the server's own when left out
        options: seed, steps, deadline_ms, arm_key, dataset_key, embodiment, smoothing, rtc, request_id

        Raises Evo1Error where the server refuses the request. TimeoutError, OSError and websockets' WebSocketException are
        those of the connection, which has ended then.
        """
        if self.socket is None:
            self._reconnect()
        action_dim = action_dim or self.action_dim(options.get("arm_key"), options.get("dataset_key"))
        frames = self._arranged(frames) if isinstance(frames, dict) else list(frames)
        frames += [None] * (VIEWS - len(frames))
        blank = [[[0, 0, 0]]]
        # Where the server swaps the first and third channel, images travel as BGR.
        order = slice(None, None, -1 if self.info["swaps_channels"] else 1)
        self.requests += 1
        request = {
            "image": [blank if f is None else np.asarray(f, np.uint8)[:, :, order].tolist() for f in frames],
            "image_mask": [int(f is not None) for f in frames],
            "state": np.asarray(state, np.float32).ravel().tolist(),
            "prompt": prompt,
            "action_mask": [int(i < action_dim) for i in range(self.info["max_action_dim"])],
            "request_id": self.requests,
            **options,
        }
        reply = self._exchange(json.dumps(request), request["request_id"])
        if "error" in reply:
            raise Evo1Error(**reply["error"])
        self.milliseconds = reply["milliseconds"]
        chunk = np.asarray(reply["actions"], np.float32)
        if chunk.ndim != 2 or len(chunk) != self.info["horizon"] or not np.isfinite(chunk).all():
            raise ValueError(f"the reply is no chunk of {self.info['horizon']} finite actions: shape {chunk.shape}")
        return chunk[:, :action_dim]

    def _arranged(self, frames: dict) -> list:
        """Frames in the order of the policy's cameras. The last part of a name is enough."""
        cameras = self.info["cameras"]
        names, optional = cameras["names"], cameras["optional"]
        last = lambda name: re.split(r"[./]", name)[-1]
        views = [None] * len(names)
        for name, frame in frames.items():
            name = cameras["aliases"].get(name, name)
            alike = [names.index(name)] if name in names else [i for i, known in enumerate(names) if last(known) == last(name)]
            if len(alike) != 1:
                raise ValueError(f"{name!r} is not one of the policy's cameras, {names}")
            views[alike[0]] = frame
        lacking = [name for name, view in zip(names, views) if view is None]
        if len(lacking) > optional:
            raise ValueError(f"frames of {lacking} are lacking, of the policy's cameras {names}")
        return views

    def _exchange(self, message: str, request_id) -> dict:
        """The reply to a request. The connection stays only where what comes next on it belongs to the next request."""
        try:
            self._send(message)
            until = time.monotonic() + self.read_timeout
            while True:
                reply = self.socket.recv(timeout=max(0.0, until - time.monotonic()))
                if isinstance(reply, bytes):
                    raise ConnectionError("the reply is binary: if this path speaks openpi's protocol, Evo-1's is at /evo1")
                reply = json.loads(reply)
                # An error may be of no request.
                if reply["request_id"] in (request_id, None):
                    return reply
        except BaseException as error:
            self._give_up()
            if isinstance(error, Exception):
                self.on_event("lost", error)
            raise

    def _send(self, message: str):
        # A blocked send ends when its socket is shut down.
        late = threading.Event()
        timer = threading.Timer(self.write_timeout, lambda: (late.set(), shut_down(connection)))
        connection = self.socket
        timer.start()
        try:
            connection.send(message)
        except WebSocketException as error:
            if late.is_set():
                raise TimeoutError(f"the message was not sent within {self.write_timeout} s") from error
            raise
        finally:
            timer.cancel()

    def _give_up(self):
        """Ends the connection at once. Its goodbyes take their time, and a robot has none."""
        connection, self.socket = self.socket, None
        shut_down(connection)
        threading.Thread(target=connection.close, daemon=True).start()

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def shut_down(connection):
    """Nothing more is sent or received."""
    with contextlib.suppress(OSError):
        # Not TLS's own shutdown, after which a thread that is still sending would do so in plain text.
        socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)


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
