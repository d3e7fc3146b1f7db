"""A control loop at a fixed rate, as `main.rs`: actions wait in a queue, a thread of its own asks for the next chunk before the
queue is empty, and each chunk goes on where the one before is (real-time chunking).

    python robot_loop.py --url ws://127.0.0.1:9000 --seconds 15
"""

import argparse
import queue
import sys
import threading
import time
from pathlib import Path

import numpy as np
from websockets.exceptions import WebSocketException

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_client"))
from evo1_client import Evo1Client, Evo1Error

PERIOD = 1 / 30
# A robot does not wait for an answer longer than this, in seconds.
PATIENCE = 1.0


class Robot:
    """Joints that go where they are told to, and a camera."""

    def __init__(self, joints: int = 8):
        self.joints, self.frames = np.zeros(joints, np.float32), 0

    def observe(self):
        self.frames += 1
        frame = (np.arange(64 * 64 * 3) * 7 + self.frames).astype(np.uint8).reshape(64, 64, 3)
        return [frame], self.joints.copy(), "open the drawer"

    def act(self, action):
        width = min(len(action), len(self.joints))
        self.joints[:width] = np.clip(action[:width], -1, 1)


class Planner:
    """Asks for one chunk at a time, beside the loop."""

    def __init__(self, policy: Evo1Client):
        self.policy, self.questions, self.answers = policy, queue.Queue(), queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while (question := self.questions.get()) is not None:
            observation, options, executed = question
            start = time.monotonic()
            try:
                chunk = self.policy.predict(*observation, deadline_ms=int(1000 * PATIENCE), **options)
            except (Evo1Error, OSError, TimeoutError, WebSocketException) as error:
                chunk = error
                # A server that is away is not asked in every period.
                time.sleep(0.1)
            self.answers.put((chunk, executed, time.monotonic() - start))


def run(url: str, seconds: float) -> dict:
    restored = []
    policy = Evo1Client(url, connect_timeout=PATIENCE, read_timeout=PATIENCE, tries=1,
                        on_event=lambda event, error: event == "restored" and restored.append(event))
    horizon = policy.info["horizon"]
    planner, robot, chunk, at = Planner(policy), Robot(), None, 0
    ticks = late = holds = executed = failures = delay = 0
    is_asked, times = False, []
    start = following = time.monotonic()
    while time.monotonic() - start < seconds:
        if not planner.answers.empty():
            answer, then, took = planner.answers.get()
            is_asked = False
            if isinstance(answer, Exception):
                failures += 1
            else:
                # The robot has gone on since the observation was made, and so does the new chunk.
                chunk, delay = answer, executed - then
                at = min(delay, horizon)
                times.append(took)
        if chunk is not None and at < horizon:
            robot.act(chunk[at])
            at += 1
            executed += 1
        else:
            holds += 1
        if not is_asked and (chunk is None or at >= max(horizon // 2, 1)):
            # What the server knows as its last reply is this chunk, of which so many actions are over.
            is_left = chunk is not None and at < horizon
            options = {"rtc": {"executed": at, "delay": delay}} if is_left else {}
            planner.questions.put((robot.observe(), options, executed))
            is_asked = True
        ticks += 1
        following += PERIOD
        left = following - time.monotonic()
        if left > 0:
            time.sleep(left)
        else:
            late += -left > PERIOD / 2
            # Ticks that are over are left out: the robot must not catch up by moving faster.
            following += PERIOD * (-left // PERIOD)
    planner.questions.put(None)
    return dict(ticks=ticks, late=late, holds=holds, chunks=len(times), failed=failures, restored=len(restored),
                p50=float(np.percentile(times, 50)) if times else 0.0, p99=float(np.percentile(times, 99)) if times else 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:9000")
    parser.add_argument("--seconds", type=float, default=15)
    args = parser.parse_args()
    summary = run(args.url, args.seconds)
    print("{ticks} ticks, {late} late, {holds} without an action".format(**summary))
    print("{chunks} chunks, p50 {p50:.3f} s, p99 {p99:.3f} s".format(**summary))
    print("{failed} failed, {restored} connections made anew".format(**summary))


if __name__ == "__main__":
    main()
