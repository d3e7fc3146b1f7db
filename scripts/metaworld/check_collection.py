"""Collects two episodes of two tasks, one task after the other and both at once, and compares what came of it with what it was.

    python check_collection.py

States and actions have the sums below with the packages of requirements.txt; pictures depend on the renderer, and have to be
the same both times.
"""
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

TASKS = ["reach-v3", "drawer-open-v3"]
SUM = "642f569f2b9631935ce52786dbac7a4b28b96c6c4a0f3d951ba9f858f19ccace"


def collected(out: Path, jobs: int) -> tuple[str, str]:
    """Sums of states and actions, and of every file."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("collect.py")), "--out", str(out), "--jobs", str(jobs)]
    command += ["--tasks", ",".join(TASKS), "--episodes", "2", "--size", "64", "--noise", "0,0.5", "--stride", "4", "--seed", "3"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    numbers, files = hashlib.sha256(), hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["observation.state", "action", "is_sample"])
            for column in table.columns:
                numbers.update(np.asarray(column.to_pylist(), np.float32).tobytes())
        if path.is_file():
            files.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return numbers.hexdigest(), files.hexdigest()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        one, two = (collected(Path(folder) / str(jobs), jobs) for jobs in (1, 2))
    if one != two:
        print(f"two at once are not what one after the other is: {two}, not {one}", file=sys.stderr)
        return 1
    if one[0] != SUM:
        print(f"states and actions have the sum {one[0]}, not {SUM}", file=sys.stderr)
        return 1
    print("the demonstrations are what they were")
    return 0


if __name__ == "__main__":
    sys.exit(main())
