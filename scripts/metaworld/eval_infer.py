"""`eval.py` without a server: every chunk comes from a run of `evo1 infer`, with the seeds that `evo1 serve` would use.

    python eval_infer.py --binary target/release/evo1 [--policy-dir DIR] [eval.py's options]

Its success rates and numbers of steps are those of `eval.py` against `evo1 serve` of the same policy, exactly.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import eval as evaluation
import mw_common as mw
import numpy as np
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
        self.a, self.latency, self.sent, self.received = args, [], 0, 0
        self.folder = tempfile.TemporaryDirectory()

    def chunk(self, frames, obs, prompt) -> np.ndarray:
        command = [BINARY, "infer", "--json", "--prompt", prompt, f"--seed={len(self.latency)}"]
        command += ["--state=" + ",".join(str(value) for value in mw.state_of(obs, self.a.state_dim))]
        command += ["--policy", POLICY] if POLICY else []
        for index, frame in enumerate(frames):
            path = Path(self.folder.name) / f"{index}.png"
            Image.fromarray(frame).save(path)
            command += ["--image", str(path)]
        reply = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        self.latency.append(sum(reply["milliseconds"].values()) / 1e3)
        return np.asarray(reply["actions"], np.float32)

    def close(self):
        self.folder.cleanup()


evaluation.Remote = Local
sys.exit(evaluation.main())
