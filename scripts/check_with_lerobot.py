#!/usr/bin/env python3
"""Loads policy directories written by `evo1 convert` with LeRobot itself, strictly, and compares its action.

    scripts/check_with_lerobot.py WRITTEN FIXTURE [WRITTEN FIXTURE ...]

WRITTEN is a converted directory, FIXTURE the fixture directory that it was made from (flavour `lerobot`). Needs torch,
transformers, safetensors and lerobot 0.6.1. Prints the largest difference of the action from the fixture's; exits 1 when
a directory does not load or the action differs by more than 1e-6.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from safetensors.torch import load_file
from transformers import InternVLConfig, InternVLModel, PreTrainedTokenizerFast


def base_model(written: Path, folder: Path) -> None:
    """A base model of the right sizes with weights that the checkpoint has to replace."""
    InternVLModel(InternVLConfig.from_dict(json.loads((written / "vlm_config.json").read_text()))).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(written / "tokenizer.json"), pad_token="<|endoftext|>",
                            padding_side="right", model_max_length=8192).save_pretrained(folder)


def difference(written: Path, fixture: Path) -> float:
    meta, inputs = json.loads((fixture / "meta.json").read_text()), load_file(fixture / "inference.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        base, policy_folder = Path(temporary) / "base", Path(temporary) / "policy"
        base_model(written, base)
        shutil.copytree(written, policy_folder)
        config = json.loads((policy_folder / "config.json").read_text())
        config |= {"vlm_model_name": str(base), "vlm_dtype": "float32", "device": "cpu", "use_amp": False,
                   "use_flash_attn": False}
        (policy_folder / "config.json").write_text(json.dumps(config))
        policy = Evo1Policy.from_pretrained(policy_folder, strict=True).float().eval()
    expected = load_file(written / "model.safetensors")
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), f"{name} was not loaded"
    batch = {"task": meta["prompts"], "observation.state": inputs["in.state"], "embodiment_id": inputs["in.embodiment_id"]}
    for view in range(inputs["in.images_u8"].shape[1]):
        batch[f"observation.images.cam{view}"] = inputs["in.images_u8"][:, view].float() / 255
    torch.manual_seed(meta["seed"])
    with torch.no_grad():
        action = policy.predict_action_chunk(batch)
    return float((action - inputs["out.action"]).abs().max())


def main() -> int:
    worst = 0.0
    for written, fixture in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        found = difference(Path(written), Path(fixture))
        print(f"{written}: loaded strictly, action differs by {found:.1e}")
        worst = max(worst, found)
    return int(worst > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
