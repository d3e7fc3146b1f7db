"""The package against the program's answers, to the bit. EVO1 is the program, `evo1` on the path when not set.

    pytest evo1-python/tests
"""

import ast
import json
import logging
import os
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import evo1
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = [0.01, 0.6, 0.19, 1.0, 0.1, 0.67, 0.02, 0.0]
PROMPT = "Push the puck to the goal marker"


def frame(seed, height=96, width=128):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


FRAMES = [frame(0), frame(1)]


def write_png(path, image):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def infer(folder, frames, *arguments, state=STATE, prompt=PROMPT):
    """What the program answers."""
    command = [os.environ.get("EVO1", "evo1"), "infer", "--json", "--device", "flex", "--prompt", prompt]
    command += ["--state=" + ",".join(map(str, state)), *arguments]
    for number, image in enumerate(frames):
        write_png(folder / f"{number}.png", image)
        command += ["--image", str(folder / f"{number}.png")]
    return np.asarray(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["actions"], np.float32)


@pytest.fixture(scope="module")
def policy():
    return evo1.Policy.load(device="flex")


def test_predictions_are_the_programs_to_the_bit(policy, tmp_path):
    actions = policy.predict(FRAMES, STATE, PROMPT)
    assert actions.dtype == np.float32 and actions.shape == (8, 4) and actions.flags.writeable
    np.testing.assert_array_equal(actions, infer(tmp_path, FRAMES))
    other = policy.predict(FRAMES[:1], STATE, "Open the drawer", seed=7, steps=3)
    wanted = infer(tmp_path, FRAMES[:1], "--seed", "7", "--steps", "3", prompt="Open the drawer")
    np.testing.assert_array_equal(other, wanted)
    assert (actions != other).any()


@pytest.mark.parametrize("name", ["fixtures/tiny-lerobot", "evo1/assets/metaworld"])
def test_a_policy_directory_predicts_as_the_program(name, tmp_path):
    path = ROOT / name
    loaded = evo1.Policy.load(path, device="flex")
    width = loaded.info()["max_state_dim"]
    state = [0.1] * width
    wanted = infer(tmp_path, FRAMES, "--policy", str(path), state=state, prompt="go")
    np.testing.assert_array_equal(loaded.predict(FRAMES, state, "go"), wanted)


def test_frames_without_names_are_one_for_each_camera():
    loaded = evo1.Policy.load(ROOT / "fixtures/tiny-lerobot", device="flex")
    state = [0.1] * loaded.info()["max_state_dim"]
    with pytest.raises(evo1.ObservationError, match="one for each of 2 cameras"):
        loaded.predict(FRAMES[:1], state, "go")
    assert np.isfinite(loaded.predict([FRAMES[0], None], state, "go")).all()


def test_arrays_of_any_layout_and_float_type_are_the_same(policy):
    wanted = policy.predict(FRAMES, STATE, PROMPT)
    turned = [np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0) for image in FRAMES]
    padded = [np.pad(image, ((3, 1), (2, 0), (0, 0)))[3:-1, 2:] for image in FRAMES]
    mirrored = [image[::-1, ::-1].copy()[::-1, ::-1] for image in FRAMES]
    read_only = [image.copy() for image in FRAMES]
    for image in read_only:
        image.flags.writeable = False
    for images in (turned, padded, mirrored, read_only, tuple(FRAMES), {"a": FRAMES[0], "b": FRAMES[1]}):
        np.testing.assert_array_equal(policy.predict(images, STATE, PROMPT), wanted)
    for state in (np.float32(STATE), np.float64(STATE), tuple(STATE), np.repeat(np.float32(STATE), 2)[::2]):
        np.testing.assert_array_equal(policy.predict(FRAMES, state, PROMPT), wanted)


def test_a_batch_is_its_observations(policy):
    images = [np.stack([frame(0), frame(2), frame(4)]), np.stack([frame(1), frame(3), frame(5)])]
    states = np.float32([STATE, STATE[::-1], [0.5] * 8])
    prompts = [PROMPT, "Open the drawer", PROMPT]
    batch = policy.predict(images, states, prompts, seed=3)
    assert batch.shape == (3, 8, 4)
    np.testing.assert_array_equal(batch, policy.predict(images, states, prompts, seed=[3, 4, 5]))
    for at in range(3):
        alone = policy.predict([images[0][at], images[1][at]], states[at], prompts[at], seed=3 + at)
        np.testing.assert_allclose(batch[at], alone, atol=1e-4)
    single = policy.predict([images[0][:1], images[1][:1]], states[:1], PROMPT)
    assert single.shape == (1, 8, 4)
    without = policy.predict([images[0], None], states, PROMPT)
    np.testing.assert_allclose(without[0], policy.predict([images[0][0], None], states[0], PROMPT), atol=1e-4)


def test_what_is_wrong_is_an_exception_that_says_what_is_right(policy, tmp_path):
    def refused(kind, text, images=FRAMES, state=STATE, prompt=PROMPT, **options):
        with pytest.raises(kind, match=text):
            policy.predict(images, state, prompt, **options)

    refused(TypeError, r"images\[0\] must be an array of uint8.*float64.*\(96, 128, 3\)", [FRAMES[0] / 255.0])
    refused(ValueError, r"\(height, width, 3\).*\(3, 96, 128\)", [FRAMES[0].transpose(2, 0, 1)])
    refused(TypeError, "`images` is a mapping", 7)
    refused(evo1.ObservationError, "views", FRAMES * 2)
    refused(evo1.ObservationError, "state", state=[0.0])
    refused(evo1.ObservationError, "finite|NaN", state=[float("nan")] * 8)
    refused(TypeError, "`state` must be", state="here")
    refused(ValueError, "`state` is", state=np.zeros((1, 2, 8), np.float32))
    refused(TypeError, "`prompt` is", prompt=3)
    refused(ValueError, "2 prompts for one", prompt=["a", "b"])
    refused(ValueError, "2 prompts for 1", [image[None] for image in FRAMES], [STATE], ["a", "b"])
    refused(ValueError, "no frame 1 of the batch", [image[None] for image in FRAMES], [STATE] * 2)
    refused(evo1.ObservationError, "step", steps=0)
    refused(evo1.ObservationError, "smooth|Gaussian", smoothing=-1.0)
    refused(ValueError, "`seed`", seed=-1)
    refused(evo1.ObservationError, "nobody", arm_key="nobody")
    with pytest.raises(ValueError, match="one observation"):
        policy.plan([image[None] for image in FRAMES], [STATE], PROMPT)
    for path, text in ((tmp_path, "config.json"), (tmp_path / "none", "no such directory")):
        with pytest.raises(evo1.PolicyError, match=text):
            evo1.Policy.load(path)
    with pytest.raises(evo1.DeviceError, match="unknown device `gpu`"):
        evo1.Policy.load(device="gpu")
    with pytest.raises(evo1.DeviceError, match="f16|tf32"):
        evo1.Policy.load(device="flex", dtype="tf32")
    with pytest.raises(ValueError, match="f32, bf16"):
        evo1.Policy.load(dtype="f8")
    with pytest.raises(ValueError, match="lerobot"):
        evo1.Policy.load(profile="mine")
    assert issubclass(evo1.DeviceError, evo1.Error) and issubclass(evo1.Error, Exception)


def test_a_policy_says_what_it_is(policy):
    info = policy.info()
    assert (info["horizon"], info["action_dim"], info["state_dim"], info["views"]) == (8, 4, 8, 2)
    assert info["policy"] == "embedded" and info["dtype"] == "f32" and info["robots"]
    assert "embedded" in repr(policy) and evo1.__version__.count(".") == 2


def test_number_types_and_sizes_are_what_was_asked_for(policy):
    half = evo1.Policy.load(device="flex", dtype="bf16").predict(FRAMES, STATE, PROMPT)
    full = policy.predict(FRAMES, STATE, PROMPT)
    assert 0 < np.abs(half - full).max() < 0.3
    first, again, other = (evo1.Policy.random("tiny", seed=seed, device="flex") for seed in (1, 1, 2))
    state = [0.0] * first.info()["state_dim"]
    actions = [policy.predict(FRAMES, state, "go") for policy in (first, again, other)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()


def test_warnings_are_pythons(caplog):
    with caplog.at_level(logging.INFO, "evo1"):
        evo1.Policy.load(ROOT / "fixtures/tiny-lerobot", device="flex")
    assert any("no statistics" in record.message and record.levelno == logging.WARNING for record in caplog.records)


def test_a_queue_plays_chunks_and_guides_the_next_one(policy):
    queue = evo1.ActionQueue(replan_every=3, guidance=evo1.Guidance(execution_horizon=5))
    assert queue.wants_chunk() and len(queue) == 0 and queue.next_action() is None and queue.guidance() is None
    chunk = policy.plan(FRAMES, STATE, PROMPT, seed=1)
    np.testing.assert_array_equal(chunk.actions, policy.predict(FRAMES, STATE, PROMPT, seed=1))
    assert len(chunk) == 8 and chunk.normalized.shape == (8, policy.info()["max_action_dim"])
    assert set(chunk.milliseconds) >= {"prepare", "action", "finish"} and "8 actions of 4" in repr(chunk)
    queue.push(chunk)
    for at in range(3):
        assert not queue.wants_chunk()
        np.testing.assert_array_equal(queue.next_action(), chunk.actions[at])
    assert queue.wants_chunk() and len(queue) == 5
    free = policy.plan(FRAMES, STATE, PROMPT, seed=9)
    guided = policy.plan(FRAMES, STATE, PROMPT, seed=9, guidance=queue.guidance(2))
    left_over = chunk.normalized[3:5]

    def distance(other):
        return np.abs(other.normalized[:2] - left_over).max()

    assert distance(guided) < distance(free) / 2
    queue.push(guided, delay=2)
    np.testing.assert_array_equal(queue.next_action(), guided.actions[2])
    queue.clear()
    assert len(queue) == 0
    for wrong in ({"method": "x"}, {"schedule": "x"}, {"max_weight": float("nan")}):
        with pytest.raises(ValueError):
            evo1.Guidance(**wrong)
    with pytest.raises(ValueError, match="replan_every"):
        evo1.ActionQueue(0)


def test_other_threads_run_while_a_policy_computes():
    policy = evo1.Policy.random("tiny", device="flex")
    state = [0.0] * policy.info()["state_dim"]
    policy.predict(FRAMES, state, "go", steps=1)
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    before, start = counted[0], time.monotonic()
    policy.predict(FRAMES, state, "go", steps=400)
    took, during = time.monotonic() - start, counted[0] - before
    done.set()
    counter.join()
    assert during > 1, f"{during} turns of another thread in {took:.2f} s"


def test_kept_memory_changes_no_prediction(policy):
    before = policy.predict(FRAMES, STATE, PROMPT)
    assert evo1.keep_freed_memory() in (True, False)
    np.testing.assert_array_equal(policy.predict(FRAMES, STATE, PROMPT), before)


def test_threads_may_share_a_policy(policy):
    wanted = [policy.predict(FRAMES, STATE, PROMPT, seed=seed) for seed in range(4)]
    got = [None] * 4

    def predict(seed):
        got[seed] = policy.predict(FRAMES, STATE, PROMPT, seed=seed)

    threads = [threading.Thread(target=predict, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(got, wanted)


def test_the_programs_of_the_readme_run():
    blocks = (ROOT / "evo1-python/README.md").read_text().split("```python\n")[1:]
    names = {}
    for block in blocks:
        exec(block.split("```")[0], names)
    assert len(blocks) == 3 and names["actions"].shape == (8, 4)
    # The loop does not wait for its robot here, and may be ahead of the second chunk.
    assert names["action"] is None or names["action"].shape == (4,)


def test_stubs_have_what_the_module_has():
    stubs = ast.parse((ROOT / "evo1-python/evo1.pyi").read_text())
    classes = {node.name: node for node in stubs.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stubs.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(evo1) if not name.startswith("_") and name != "evo1"}
    assert public == set(classes) | functions
    for name, node in classes.items():
        described = {item.name for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("__")}
        found = {item for item in vars(getattr(evo1, name)) if not item.startswith("__")}
        assert described == found, name
        assert getattr(evo1, name).__doc__, name
    for method in ("load", "predict", "plan"):
        node = next(item for item in classes["Policy"].body if getattr(item, "name", "") == method)
        named = [argument.arg for argument in node.args.args + node.args.kwonlyargs if argument.arg != "self"]
        text = getattr(evo1.Policy, method).__text_signature__
        assert [name for name in named if f"{name}" not in text] == [], text
