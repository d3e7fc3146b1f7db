#!/usr/bin/env python3
"""Has `evo1 convert` write LeRobot policies, loads them with LeRobot itself, strictly, and compares what they compute.

    scripts/check_with_lerobot.py target/release/evo1

Every fixture of LeRobot goes through burn's format and through the authors' layout and back; its action from the same
noise must be that of the fixture's own directory. A checkpoint of the authors' code with a `norm_stats.json` becomes a LeRobot policy, whose
processors must normalise as LeRobot's own do. Needs torch, transformers, safetensors and lerobot 0.6.1. Prints the largest
differences; exits 1 when a policy does not load or one is above 1e-6.
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


def action(written: Path, fixture: Path, folder: Path) -> torch.Tensor:
    """What LeRobot makes of a policy directory and the fixture's inputs and noise."""
    meta, inputs = json.loads((fixture / "meta.json").read_text()), load_file(fixture / "inference.safetensors")
    base, policy_folder = folder / "base", folder / "policy"
    base_model(written, base)
    shutil.copytree(written, policy_folder)
    config = json.loads((policy_folder / "config.json").read_text())
    cameras = [name for name, feature in config["input_features"].items() if feature["type"] == "VISUAL"]
    # The authors' layout has no names of cameras: there is one for every view that the model has.
    cameras = cameras[:inputs["in.images_u8"].shape[1]]
    config["input_features"] = {name: feature for name, feature in config["input_features"].items()
                                if feature["type"] != "VISUAL" or name in cameras}
    config |= {"vlm_model_name": str(base), "vlm_dtype": "float32", "device": "cpu", "use_amp": False,
               "use_flash_attn": False}
    (policy_folder / "config.json").write_text(json.dumps(config))
    policy = Evo1Policy.from_pretrained(policy_folder, strict=True).float().eval()
    expected = load_file(written / "model.safetensors")
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), f"{name} was not loaded"
    batch = {"task": meta["prompts"], "observation.state": inputs["in.state"],
             "embodiment_id": inputs["in.embodiment_id"]}
    for view, camera in enumerate(cameras):
        batch[camera] = inputs["in.images_u8"][:, view].float() / 255
    torch.manual_seed(meta["seed"])
    with torch.no_grad():
        return policy.predict_action_chunk(batch)


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
