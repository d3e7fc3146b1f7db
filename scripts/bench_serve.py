"""Latency of a policy server under 1, 4 and 16 clients, and what the server adds to the bare model.

    evo1 serve & python scripts/bench_serve.py --url ws://127.0.0.1:9000
    taskset -c 0 evo1 serve & taskset -c 1 python scripts/bench_serve.py --clients 1     # the server on one core
    evo1 serve --lerobot 127.0.0.1:8080 & python scripts/bench_serve.py --lerobot 127.0.0.1:8080   # LeRobot's pickles too

Each client sends the same message, three images of `--size` with random pixels, as soon as it has its reply. Overhead is
what the server's own clock shows of a request, from the first byte to the last of the reply, less the model's stages. The
same message is read by Python's json and numpy in the same run. With `--lerobot`, the same frames come as LeRobot's client sends them.
Needs websockets and numpy, and grpcio for LeRobot.
"""

import argparse
import json
import threading
import time
import urllib.request

import numpy as np
from websockets.sync.client import connect

MODEL = ["vision", "projector", "language", "action", "finish"]


def message(size: int, state: int, actions: int) -> str:
    rng = np.random.default_rng(0)
    return json.dumps({
        "image": [rng.integers(0, 256, (size, size, 3)).tolist() for _ in range(3)],
        "image_mask": [1, 1, 1],
        "action_mask": [int(i < actions) for i in range(24)],
        "state": [0.1] * state,
        "prompt": "Open the drawer",
    })


def stage_sums(url: str) -> dict:
    text = urllib.request.urlopen(url.replace("ws", "http", 1) + "/metrics").read().decode()
    lines = [line for line in text.splitlines() if line.startswith("evo1_stage_seconds_sum")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def client(url: str, text: str, requests: int, latencies: list):
    with connect(url, max_size=100_000_000, compression=None, ping_interval=None) as socket:
        for _ in range(requests):
            start = time.perf_counter()
            socket.send(text)
            socket.recv()
            latencies.append(1e3 * (time.perf_counter() - start))


def lerobot_client(address: str, policy: str, size: int, state: int, views: int, requests: int, latencies: list):
    import lerobot_wire

    rng, joints = np.random.default_rng(0), [f"joint{i}" for i in range(state)]
    cameras = {f"camera{view}": (size, size) for view in range(views)}
    robot = lerobot_wire.Robot(address, joints, cameras, policy, 1000)
    robot.start()
    frames = {name: rng.integers(0, 256, (size, size, 3), np.uint8) for name in cameras}
    values = {**dict.fromkeys(joints, 0.1), **frames, "task": "Open the drawer"}
    for step in range(requests):
        start = time.perf_counter()
        robot.observe(lerobot_wire.TimedObservation(0.0, step, values, True))
        assert robot.actions()
        latencies.append(1e3 * (time.perf_counter() - start))
    robot.close()


def row(name: str, url: str, run) -> str:
    """A row of the table: `run` is given a list for latencies. Overhead is what the server's clock shows without the model."""
    latencies, before, start = [], stage_sums(url), time.perf_counter()
    run(latencies)
    took, after = time.perf_counter() - start, stage_sums(url)
    mean = {stage: 1e3 * (after[stage] - before.get(stage, 0)) / len(latencies) for stage in after}
    overhead = mean["receive"] + mean["total"] - mean["queue"] - sum(mean[stage] for stage in MODEL)
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99])
    return f"| {name} | {p50:.1f} | {p90:.1f} | {p99:.1f} | {len(latencies) / took:.1f} | {overhead:.1f} | {mean['parse']:.1f} |"


def python_parse(text: str, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for image in json.loads(text)["image"]:
            np.array(image, dtype=np.uint8)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:9000")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--state-dim", type=int, default=8)
    parser.add_argument("--action-dim", type=int, default=4)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--requests", type=int, default=32, help="of all clients together, in each row")
    parser.add_argument("--lerobot", metavar="ADDR:PORT", help="where the server answers LeRobot's clients")
    args = parser.parse_args()
    text = message(args.size, args.state_dim, args.action_dim)
    client(args.url, text, 3, [])
    print(f"message of {len(text) / 1e6:.2f} MB")
    print("| clients | p50 ms | p90 ms | p99 ms | requests/s | overhead ms | of it parse ms |\n| --- | --- | --- | --- | --- | --- | --- |")
    for clients in map(int, args.clients.split(",")):
        each = max(1, args.requests // clients)

        def run(latencies: list):
            threads = [threading.Thread(target=client, args=(args.url, text, each, latencies)) for _ in range(clients)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]

        print(row(str(clients), args.url, run))
    if args.lerobot:
        import lerobot_wire

        lerobot_wire.stand_in()
        info = json.loads(urllib.request.urlopen(args.url.replace("ws", "http", 1) + "/info").read())
        what = (args.lerobot, info["policy"], args.size, args.state_dim, info["views"])
        lerobot_client(*what, 3, [])
        print(row(f"1, LeRobot's, of {info['views']} views", args.url, lambda latencies: lerobot_client(*what, args.requests, latencies)))
    print(f"Python's json.loads and numpy on the same message: {python_parse(text):.1f} ms")


if __name__ == "__main__":
    main()
