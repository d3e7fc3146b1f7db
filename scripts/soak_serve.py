#!/usr/bin/env python3
"""Serves eight robots of three protocols for twenty minutes while connections are cut, the policy is loaded anew, the server is
started again, and somebody sends what is none. No reply may be wrong, late or lost, and memory must stay where it is.

    scripts/soak_serve.py target/release/evo1
    scripts/soak_serve.py target/release/evo1 --minutes 3

Three clients of Evo-1's JSON (examples/python_client), three of openpi's (openpi-client), two of LeRobot's asynchronous inference.
Every reply is held against what the server answered to the same observation and seed at the beginning, when it was alone. Three
reloads and two restarts are spread over the time; one request in thirty is left by its client. In the second half of every life
of the server, hostile connections bring garbage to every door. Needs websockets, numpy, openpi-client and grpcio. Prints a table;
exits 1 when something was not as it should be.
"""

import argparse
import json
import logging
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

import lerobot_wire

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "python_client"))
from evo1_client import Evo1Client, Evo1Error

OBSERVATIONS = 6
SESSION = 25
TOLERANCE = 1e-5
# A reply that takes longer, in seconds, is lost.
LOST = 20


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """The server, which can be started again at the same addresses."""

    def __init__(self, evo1: str, arguments: list):
        self.port, self.lerobot = free_port(), f"127.0.0.1:{free_port()}"
        self.command = [evo1, "serve", "--device", "flex", "--steps", "2", "--bind", f"127.0.0.1:{self.port}", "--lerobot", self.lerobot,
                        "--max-memory", "400000000", *arguments]
        self.url, self.process, self.memory = f"ws://127.0.0.1:{self.port}", None, []

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().startswith("listening")
        self.memory.append([])
        while self.get("/readyz", quiet=True) is None:
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, "the server did not end well"

    def get(self, path: str, quiet: bool = False, method: str = "GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        try:
            return urllib.request.urlopen(request, timeout=30).read().decode()
        except OSError:
            if quiet:
                return None
            raise

    def resident(self) -> float:
        """Memory in megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


class Soak:
    def __init__(self, server: Server, pause: float):
        self.server, self.pause, self.is_over = server, pause, threading.Event()
        self.lock = threading.Lock()
        self.times, self.errors = {}, {}
        self.wrong, self.left, self.is_hostile, self.start = [], 0, False, time.monotonic()
        self.info = json.loads(server.get("/info"))
        rng, size = np.random.default_rng(1), self.info["image_size"]
        self.width = self.info["robots"][0]["state_dim"]
        self.frames = rng.integers(0, 256, (OBSERVATIONS, size, size, 3), dtype=np.uint8)
        self.states = rng.uniform(0, 1, (OBSERVATIONS, self.width)).astype(np.float32)
        with Evo1Client(server.url, read_timeout=LOST) as policy:
            ask = lambda which, seed: policy.predict([self.frames[which]], self.states[which], "open the drawer", seed=seed)
            self.expected = {(which, seed): ask(which, seed) for which in range(OBSERVATIONS) for seed in range(SESSION)}

    def check(self, protocol: str, which: int, seed: int, chunk: np.ndarray, took: float):
        expected = self.expected[which, seed]
        difference = np.abs(chunk - expected[:len(chunk)]).max() if chunk.shape[1] == expected.shape[1] else np.inf
        with self.lock:
            self.times.setdefault((protocol, self.is_hostile), []).append(took)
            if not difference < TOLERANCE:
                self.wrong.append(f"{protocol}: observation {which}, seed {seed}: differs by {difference}")

    def failed(self, protocol: str, error: Exception, is_asked: bool = True):
        kind = getattr(error, "kind", type(error).__name__)
        if isinstance(error, grpc.RpcError):
            kind = error.code().name
        # A server that is away is not asked anything.
        lost = is_asked and (isinstance(error, TimeoutError) or kind == "DEADLINE_EXCEEDED")
        with self.lock:
            self.errors[protocol, kind] = self.errors.get((protocol, kind), 0) + 1
            if lost:
                self.wrong.append(f"{protocol}: no reply within {LOST} s, after {time.monotonic() - self.start:.0f} s: {error}")
        self.is_over.wait(0.2)

    def leave(self, protocol: str, which: int):
        """Asks and goes away."""
        with self.lock:
            self.left += 1
        try:
            if protocol == "json":
                message = {"image": [self.frames[which].tolist()] + [[[[0, 0, 0]]]] * 2, "image_mask": [1, 0, 0], "prompt": "x",
                           "state": self.states[which].tolist(), "action_mask": [1] * 24}
                with connect(self.server.url, compression=None) as ws:
                    ws.send(json.dumps(message))
                    ws.socket.shutdown(socket.SHUT_RDWR)
            else:
                WebsocketClientPolicy(f"{self.server.url}/openpi")._ws.socket.shutdown(socket.SHUT_RDWR)
        except (OSError, WebSocketException):
            pass

    def json_client(self, rng: random.Random):
        policy = None
        while not self.is_over.wait(self.pause):
            which, seed = rng.randrange(OBSERVATIONS), rng.randrange(SESSION)
            try:
                policy = policy or Evo1Client(self.server.url, read_timeout=LOST)
                if rng.random() < 1 / 30:
                    self.leave("json", which)
                start = time.monotonic()
                chunk = policy.predict([self.frames[which]], self.states[which], "open the drawer", seed=seed)
                self.check("json", which, seed, chunk, time.monotonic() - start)
            except (Evo1Error, OSError, WebSocketException) as error:
                self.failed("json", error)

    def openpi_client(self, rng: random.Random):
        policy = None
        while not self.is_over.wait(self.pause):
            which, seed = rng.randrange(OBSERVATIONS), rng.randrange(SESSION)
            try:
                policy = policy or WebsocketClientPolicy(f"{self.server.url}/openpi")
                if rng.random() < 1 / 30:
                    self.leave("openpi", which)
                start = time.monotonic()
                reply = policy.infer({"observation/image": self.frames[which], "observation/state": self.states[which],
                                      "prompt": "open the drawer", "seed": seed})
                self.check("openpi", which, seed, reply["actions"], time.monotonic() - start)
            except (RuntimeError, OSError, WebSocketException) as error:
                policy = None
                self.failed("openpi", error)

    def lerobot_client(self, rng: random.Random):
        joints, size = [f"joint{i}.pos" for i in range(self.width)], self.frames.shape[1]
        robot, number, step = None, 0, 0
        while not self.is_over.wait(self.pause):
            is_asked = False
            try:
                if robot is None or number == SESSION or rng.random() < 1 / 30:
                    if robot:
                        robot.close()
                    robot = lerobot_wire.Robot(self.server.lerobot, joints, {"front": (size, size)}, self.info["policy"], 1000)
                    robot.start()
                    number, which = 0, rng.randrange(OBSERVATIONS)
                step += 1
                values = dict(zip(joints, map(float, self.states[which])), front=self.frames[which], task="open the drawer")
                start = time.monotonic()
                is_asked = True
                robot.observe(lerobot_wire.TimedObservation(float(step), step, values, True), timeout=LOST)
                actions = robot.actions(timeout=LOST)
                if not actions or (actions[0].timestep, actions[0].timestamp) != (step, step):
                    self.wrong.append(f"lerobot: step {step} is answered by {actions[:1]}")
                    continue
                # A session's first request has seed 0, the next 1.
                chunk = np.array([action.action for action in actions], np.float32)
                self.check("lerobot", which, number, chunk, time.monotonic() - start)
                number += 1
            except grpc.RpcError as error:
                if robot:
                    robot.close()
                robot = None
                self.failed("lerobot", error, is_asked)

    def hostile(self, rng: random.Random):
        """Garbage, by turns to the websockets and to gRPC, and a message that never ends."""
        while not self.is_over.wait(0.01):
            if not self.is_hostile:
                continue
            junk = rng.randbytes(rng.randrange(1, 4000))
            try:
                match rng.randrange(4):
                    case 0:
                        with connect(self.server.url, compression=None, open_timeout=5) as ws:
                            ws.send(junk)
                            ws.recv(timeout=5)
                    case 1:
                        with connect(f"{self.server.url}/openpi", compression=None, open_timeout=5) as ws:
                            ws.send(b"\x8f" + junk)
                            ws.recv(timeout=5)
                    case 2:
                        channel = grpc.insecure_channel(self.server.lerobot, [("grpc.use_local_subchannel_pool", 1)])
                        call = channel.unary_unary(lerobot_wire.SERVICE + "SendPolicyInstructions")
                        call(b"\x0a" + lerobot_wire.number(len(junk)) + junk, timeout=5)
                    case _:
                        with socket.create_connection(("127.0.0.1", rng.choice([self.server.port, int(self.server.lerobot.split(":")[1])])), 5) as raw:
                            raw.sendall(junk)
            except (OSError, WebSocketException, grpc.RpcError, TimeoutError):
                pass
            finally:
                if "channel" in locals():
                    channel.close()

    def run(self, seconds: float, reloads: int, restarts: int):
        clients = [self.json_client] * 3 + [self.openpi_client] * 3 + [self.lerobot_client] * 2 + [self.hostile] * 2
        threads = [threading.Thread(target=client, args=(random.Random(number),), daemon=True) for number, client in enumerate(clients)]
        start = time.monotonic()
        events = [(seconds * (i + 1) / (restarts + 1), "restart") for i in range(restarts)]
        events += [(seconds * (i + 0.5) / reloads, "reload") for i in range(reloads)]
        [thread.start() for thread in threads]
        life = start
        while (now := time.monotonic() - start) < seconds:
            time.sleep(0.5)
            self.server.memory[-1].append(self.server.resident())
            self.is_hostile = time.monotonic() - life > seconds / (restarts + 1) / 2
            for event in [event for event in events if event[0] <= now]:
                events.remove(event)
                print(f"{now:6.0f} s: {event[1]}", flush=True)
                if event[1] == "reload":
                    print("         " + self.server.get("/reload", method="POST").strip(), flush=True)
                else:
                    self.server.stop()
                    self.server.start()
                    life = time.monotonic()
        self.is_over.set()
        [thread.join(LOST + 5) for thread in threads]
        assert not any(thread.is_alive() for thread in threads), "a client hangs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evo1")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between a reply and the next request of a client")
    parser.add_argument("--reloads", type=int, default=3)
    parser.add_argument("--restarts", type=int, default=2)
    args = parser.parse_args()
    # A connection that is cut is what this is about.
    logging.disable(logging.ERROR)
    lerobot_wire.stand_in()
    server = Server(args.evo1, [])
    server.start()
    try:
        soak = Soak(server, args.pause)
        soak.run(60 * args.minutes, args.reloads, args.restarts)
        metrics = server.get("/metrics")
        print("\n| protocol | beside | replies | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
        for (protocol, is_hostile), times in sorted(soak.times.items()):
            p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
            print(f"| {protocol} | {'hostile clients' if is_hostile else 'its own kind'} | {len(times)} | {p50:.1f} | {p99:.1f} |")
        print(f"\n{soak.left} requests were left by their clients; errors told: {soak.errors or 'none'}")
        # The first samples of a life are its beginning.
        lives = [life[len(life) // 5:] for life in server.memory if len(life) > 20]
        grown = [np.mean(life[-len(life) // 4:]) - np.mean(life[:len(life) // 4]) for life in lives]
        for life, growth in zip(lives, grown):
            print(f"memory of a server: {life[0]:.0f} MB at first, {max(life):.0f} at most, {life[-1]:.0f} at last, grown by {growth:.1f}")
        held = re.search(r"^evo1_request_memory_bytes (\d+)", metrics, re.MULTILINE)[1]
        print(f"held for requests at the end: {held} bytes")
        for wrong in soak.wrong[:20]:
            print("WRONG", wrong)
        print(f"{len(soak.wrong)} replies were wrong, late or lost")
        return int(bool(soak.wrong) or any(growth > 30 for growth in grown))
    finally:
        if server.process.poll() is None:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
