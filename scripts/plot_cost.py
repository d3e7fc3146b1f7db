#!/usr/bin/env python3
"""Time against work: a prediction of the full-size model with more views, steps, words or observations, as a picture.

    scripts/plot_cost.py [--binary target/release/evo1] [--repeat 2] [--out docs/cost.png] [--reports FOLDER]

Every point is a run of `evo1 bench`; its report is kept in FOLDER and used again when it is there. Each panel has the
measured median and a dashed line through its first point that grows as the arithmetic does: what lies below it gets cheaper
by the piece. Needs matplotlib.
"""

import argparse
import json
import subprocess
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PATCHES, TOKENS_PER_VIEW, HORIZON = 1025, 269, 50


def gflop(tiles, tokens, steps, batch):
    """Of a prediction: vision tower, language model, action expert; products and attention."""
    vision = tiles * 24 * (2 * PATCHES * 12 * 1024**2 + 4 * PATCHES**2 * 1024)
    language = 14 * (2 * tokens * (2 * 896**2 + 2 * 896 * 128 + 3 * 896 * 4864) + 4 * tokens**2 * 896)
    once = 8 * 2 * (tokens + 1) * 2 * 896**2
    step = 8 * (2 * HORIZON * 10 * 896**2 + 4 * HORIZON * (tokens + 1) * 896) + 2 * HORIZON * 896**2 * 3
    return batch * (vision + language + once + steps * step) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/evo1")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/cost.png"))
    parser.add_argument("--reports", type=Path, default=Path("target/cost"))
    args = parser.parse_args()
    args.reports.mkdir(parents=True, exist_ok=True)

    def seconds(name, *options):
        path = args.reports / f"{name}.json"
        if not path.exists():
            command = [args.binary, "bench", "--preset", "evo1", "--repeat", str(args.repeat), *options, "--json"]
            path.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return json.loads(path.read_text())["milliseconds"]["total"]["p50"] / 1e3

    text = 48  # bytes of evo1 bench's instruction
    panels = {
        "views (8 steps)": [
            (v, seconds(f"views-{v}", "--views", str(v), "--steps", "8"), gflop(v, v * TOKENS_PER_VIEW + text, 8, 1)) for v in (1, 2, 3)
        ],
        "Euler steps (1 view)": [
            (s, seconds(f"steps-{s}", "--views", "1", "--steps", str(s)), gflop(1, TOKENS_PER_VIEW + text, s, 1)) for s in (8, 16, 32)
        ],
        "bytes of the instruction (1 view, 8 steps)": [
            (8 * w, seconds(f"words-{w}", "--views", "1", "--steps", "8", "--instruction", "pick up " * w),
             gflop(1, TOKENS_PER_VIEW + 8 * w, 8, 1)) for w in (1, 30, 60)
        ],
        "observations at once (1 view, 32 steps)": [
            (n, seconds(f"batch-{n}", "--views", "1", "--steps", "32", "--batch", str(n)),
             gflop(1, TOKENS_PER_VIEW + text, 32, n)) for n in (1, 2, 4, 8)
        ],
    }
    figure, axes = plt.subplots(1, 4, figsize=(16, 4))
    for axis, (name, points) in zip(axes, panels.items()):
        x, measured, work = zip(*points)
        axis.plot(x, measured, "o-", label="measured")
        axis.plot(x, [measured[0] * w / work[0] for w in work], "k--", label="as the arithmetic")
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None))
        axis.legend()
        for value, time, w in points:
            print(f"{name:45} {value:5} {time:7.2f} s {w:7.0f} GFLOP {w / time:6.0f} GFLOP/s")
    figure.tight_layout()
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
