#!/usr/bin/env python3
"""Has `evo1 convert` write LeRobot policies, loads them with LeRobot itself, strictly, and compares what they compute.

    scripts/check_with_lerobot.py target/release/evo1

Every fixture of LeRobot goes through burn's format and through the authors' layout and back; its action from the same
noise must be that of the fixture's own directory. A checkpoint of the authors' code with a `norm_stats.json` becomes a LeRobot
policy, whose processors must normalise as LeRobot's own do. A policy that `evo1 train` fine-tuned on a dataset with two cameras
must run in LeRobot on what that dataset calls them. No file that was written is changed. Needs torch, transformers, safetensors
and lerobot 0.6.1. Prints the largest differences; exits 1 when a policy does not load or one is above 1e-6.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from transformers import InternVLConfig, InternVLModel, PreTrainedTokenizerFast

FIXTURES = Path(__file__).parent.parent / "fixtures"
TOLERANCE = 1e-6


def convert(evo1: str, source: Path, target: Path, form: str) -> Path:
    subprocess.run([evo1, "convert", "--from", source, "--to", target, "--format", form], check=True,
                   stdout=subprocess.DEVNULL)
    return target


def base_model(policy: Path, folder: Path) -> None:
    """A base model of the right sizes with weights that the checkpoint has to replace."""
    InternVLModel(InternVLConfig.from_dict(json.loads((policy / "vlm_config.json").read_text()))).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(policy / "tokenizer.json"), pad_token="<|endoftext|>",
                            padding_side="right", model_max_length=8192).save_pretrained(folder)


def load(written: Path, folder: Path) -> Evo1Policy:
    """The policy as LeRobot loads it, on a base model in `folder`: strictly, so that every tensor is the file's."""
    base_model(written, folder)
    overrides = [f"--vlm_model_name={folder}", "--vlm_dtype=float32", "--device=cpu", "--use_amp=false", "--use_flash_attn=false"]
    config = PreTrainedConfig.from_pretrained(written, cli_overrides=overrides)
    policy = Evo1Policy.from_pretrained(written, config=config, strict=True).float().eval()
    expected = load_file(written / "model.safetensors")
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), f"{name} was not loaded"
    return policy


def action(written: Path, fixture: Path, folder: Path) -> torch.Tensor:
    """What LeRobot makes of a policy directory and the fixture's inputs and noise."""
    meta, inputs = json.loads((fixture / "meta.json").read_text()), load_file(fixture / "inference.safetensors")
    policy = load(written, folder / "base")
    batch = {"task": meta["prompts"], "observation.state": inputs["in.state"],
             "embodiment_id": inputs["in.embodiment_id"]}
    # The last cameras may be lacking.
    for camera, frames in zip(policy.config.image_features, inputs["in.images_u8"].unbind(1)):
        batch[camera] = frames.float() / 255
    torch.manual_seed(meta["seed"])
    with torch.no_grad():
        return policy.predict_action_chunk(batch)


def fine_tuned(evo1: str, folder: Path) -> Path:
    """A LeRobot policy, fine-tuned by `evo1 train` on two cameras and vectors of four values of another robot."""
    data = {"data_groups": {"arm": {"set": {"path": str(FIXTURES / "lerobot-datasets" / "v21"), "state_dims": [0, 1, 2, 3],
                                            "action_dims": [0, 1, 2, 3]}}}}
    # YAML, of which JSON is a part.
    recipe = folder / "train.yaml"
    folder.mkdir(parents=True)
    recipe.write_text(json.dumps({"policy": {"from": str(FIXTURES / "tiny-lerobot")}, "data": data, "steps": 2, "batch_size": 2,
                                  "output": str(folder / "run")}))
    subprocess.run([evo1, "train", "--config", recipe], check=True, stdout=subprocess.DEVNULL)
    return next((folder / "run" / "checkpoints").glob("*2"))


def runs(written: Path, folder: Path) -> None:
    """LeRobot predicts with the policy, from what the dataset calls its cameras to actions in the robot's units."""
    policy = load(written, folder / "base")
    cameras = list(policy.config.image_features)
    assert cameras == ["observation.images.front", "observation.images.wrist"], cameras
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(written))
    frames = {camera: torch.rand(3, 48, 64) for camera in cameras}
    with torch.no_grad():
        chunk = policy.predict_action_chunk(before({**frames, "observation.state": torch.zeros(4), "task": "push"}))
    actions = torch.stack([after(step) for step in chunk[0]])
    assert actions.shape[-1] == 4 and actions.isfinite().all(), actions


def with_statistics(folder: Path, values: dict[str, torch.Tensor]) -> Path:
    """The authors' checkpoint with statistics that LeRobot's processors were given for the fixture."""
    shutil.copytree(FIXTURES / "tiny-authors", folder)
    vector = lambda name: {bound: values[f"in.{name}_{bound}"].tolist() for bound in ("min", "max")}
    statistics = {"robot": {"dataset": {"observation.state": vector("state"), "action": vector("action")}}}
    (folder / "norm_stats.json").write_text(json.dumps(statistics))
    return folder


def processor_difference(written: Path, values: dict[str, torch.Tensor]) -> float:
    """How far the written processors are from what LeRobot computed with its own."""
    config = PreTrainedConfig.from_pretrained(written)
    config.device = "cpu"
    before, after = make_pre_post_processors(config, pretrained_path=str(written))
    worst = 0.0
    for index, state in enumerate(values["in.state"]):
        got = before({"observation.state": state, "action": values["in.action"][index]})
        worst = max(worst, float((got["observation.state"] - values["lerobot.state"][index]).abs().max()))
        worst = max(worst, float((got["action"] - values["lerobot.action"][index]).abs().max()))
    for predicted, expected in zip(values["in.predicted"], values["lerobot.unnormalised"], strict=True):
        worst = max(worst, float((after(predicted) - expected).abs().max()))
    return worst


def main(evo1: str) -> int:
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("tiny-lerobot", "tiny-multiembodiment", "tiny-horizon1", "tiny-train-lerobot"):
            expected = action(FIXTURES / name, FIXTURES / name, root / name)
            for form in ("burnpack", "authors"):
                folder = root / f"{name}-{form}"
                there = convert(evo1, FIXTURES / name, folder / "there", form)
                back = convert(evo1, there, folder / "back", "lerobot")
                found = float((action(back, FIXTURES / name, folder) - expected).abs().max())
                print(f"{name} through {form}: loaded strictly, action differs by {found:.1e}")
                worst = max(worst, found)
        runs(fine_tuned(evo1, root / "fine-tuned"), root / "fine-tuned")
        print("fine-tuned on two cameras: loaded strictly, predicts from them")
        values = load_file(FIXTURES / "tiny-lerobot" / "processor.safetensors")
        checkpoint = with_statistics(root / "authors", values)
        written = convert(evo1, checkpoint, root / "from-authors", "lerobot")
        found = processor_difference(written, values)
        print(f"authors' checkpoint as LeRobot policy: processors loaded, values differ by {found:.1e}")
        worst = max(worst, found)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
