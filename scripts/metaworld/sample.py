"""Draw the observation that is embedded in the program: both frames, and its state for `evo1-cli/src/sample.rs`.

    python sample.py ../../evo1-cli/assets

The scripted expert opens a drawer for 20 steps, with a goal that no policy of this project was trained on.
"""
import sys
from pathlib import Path

import mw_common as mw
from PIL import Image

SEED, STEPS = 1010, 20

task = mw.Task("drawer-open-v3", SEED)
obs = task.reset(0)
camera = mw.Camera(task.env, 224, None, "fast")
expert = task.expert()
for _ in range(STEPS):
    obs, *_ = task.step(expert.get_action(obs))
for name, view in (("image", "corner2"), ("behind_gripper", "behindGripper")):
    Image.fromarray(camera.rgb(task.env, view)).save(Path(sys.argv[1]) / f"{name}.png", optimize=True)
print(mw.state_of(obs).tolist())
