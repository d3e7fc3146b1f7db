"""`rollout.py` without a server: every chunk comes from a run of `evo1 infer`, with the seeds that `evo1 serve` would use.

    python rollout_infer.py --binary target/release/evo1 [--policy-dir DIR] --task reach-v3 --seeds 0,1 [rollout.py's options]

What it prints is what `rollout.py` prints of `evo1 serve` for the same policy, exactly.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mw_common as mw
import numpy as np
import rollout
from PIL import Image


def taken(name: str) -> str | None:
    """An option of this script's own, taken out of the command line."""
    if name not in sys.argv:
        return None
    at = sys.argv.index(name)
    value = sys.argv[at + 1]
    del sys.argv[at : at + 2]
    return value


BINARY, POLICY = taken("--binary") or "evo1", taken("--policy-dir")


class Local:
    """In place of the server: answers from `evo1 infer`."""

    def __init__(self, args):
        self.a, self.asked = args, 0
        self.folder = tempfile.TemporaryDirectory()

    def chunk(self, frames, obs, prompt) -> np.ndarray:
        command = [BINARY, "infer", "--json", "--prompt", prompt, f"--seed={self.asked}"]
        command += ["--state=" + ",".join(str(value) for value in mw.state_of(obs, self.a.state_dim))]
        command += ["--policy", POLICY] if POLICY else []
        for index, frame in enumerate(frames):
            path = Path(self.folder.name) / f"{index}.png"
            Image.fromarray(frame).save(path)
            command += ["--image", str(path)]
        reply = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        self.asked += 1
        return np.asarray(reply["actions"], np.float32)

    def close(self):
        self.folder.cleanup()


rollout.Remote = Local
sys.exit(rollout.main())
