#!/usr/bin/env python3
"""Has PEFT read the adapters that `evo1 train` writes, on LeRobot's own policy, and `evo1` those that PEFT writes.

    scripts/check_with_peft.py target/release/evo1

`evo1 train` trains adapters on a fixture's policy: on everything, and on single projections of the action expert, which PyTorch
keeps in one tensor. PEFT puts each on LeRobot's policy, every tensor of it, whose action from the fixture's noise must be that of
the policy that was trained, as `evo1` computes it; merged by PEFT its weights must be those of the checkpoint. Then PEFT makes
random adapters of several kinds on LeRobot's policy, and `evo1 convert --adapter` must make a policy of them that does in `evo1`
what PEFT's does. Needs torch, transformers, safetensors, lerobot 0.6.1 and peft 0.21.2. Prints the largest differences; exits 1
when an adapter is not read whole, one changes nothing, or a difference is above 1e-4.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from check_with_lerobot import FIXTURES, load
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

TOLERANCE = 1e-4
FIXTURE = FIXTURES / "tiny-lerobot"
# What is adapted: patterns of parameters here, and PEFT's settings.
TRAINED = {"everything": [], "single projections": ["blocks.0.*q_proj", "blocks.1.*out_proj", "language_model.*mlp"]}
WRITTEN = {
    "linear layers": {"target_modules": r".*(q_proj|v_proj|mlp\.fc1|gate_proj|linear_1|ff\.0|fc1\.linear|seq_pool_proj)"},
    "attention, ranks of its own": {"target_modules": ["attn", "o_proj"], "rank_pattern": {r"transformer_blocks\.1\.attn": 3},
                                    "alpha_pattern": {"o_proj": 5, "attn": 7}},
    "scaled by the rank's root": {"target_modules": ["up_proj", "attn"], "use_rslora": True},
}


def run(*arguments: str | Path) -> None:
    subprocess.run(list(map(str, arguments)), check=True, stdout=subprocess.DEVNULL)


def trained(evo1: str, patterns: list[str], folder: Path) -> Path:
    """The checkpoint of a short run of adapters on the fixture's policy."""
    data = {"data_groups": {"arm": {"set": {"path": str(FIXTURES / "lerobot-datasets" / "v21"), "state_dims": [0, 1, 2, 3],
                                            "action_dims": [0, 1, 2, 3]}}}}
    folder.mkdir(parents=True)
    recipe = folder / "train.yaml"
    # YAML, of which JSON is a part.
    recipe.write_text(json.dumps({
        "policy": {"from": str(FIXTURE)}, "data": data, "steps": 6, "batch_size": 2, "output": str(folder / "run"),
        "stage": None, "trained": {"vision": True, "language": True, "action": True},
        "lora": {"rank": 3, "alpha": 6, "parameters": patterns},
        "optimizer": {"learning_rate": 3e-2}, "schedule": {"warmup_steps": 0}}))
    run(evo1, "train", "--config", recipe)
    return next((folder / "run" / "checkpoints").glob("*6"))


def ours(evo1: str, policy: Path, folder: Path) -> torch.Tensor:
    """What `evo1` makes of a policy and the fixture's inputs and noise."""
    out = folder / "trace.safetensors"
    run(evo1, "trace", "--policy", policy, "--inputs", FIXTURE / "inference.safetensors", "--out", out)
    return load_file(out)["out.action"]


def theirs(policy: torch.nn.Module) -> torch.Tensor:
    """What LeRobot's policy makes of them, with or without an adapter."""
    meta, inputs = json.loads((FIXTURE / "meta.json").read_text()), load_file(FIXTURE / "inference.safetensors")
    batch = {"task": meta["prompts"], "observation.state": inputs["in.state"], "embodiment_id": inputs["in.embodiment_id"]}
    for camera, frames in zip(policy.config.image_features, inputs["in.images_u8"].unbind(1)):
        batch[camera] = frames.float() / 255
    torch.manual_seed(meta["seed"])
    with torch.no_grad():
        return policy.eval().predict_action_chunk(batch)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a[..., :b.shape[-1]] - b[..., :a.shape[-1]]).abs().max())


def read(adapter: Path, folder: Path) -> PeftModel:
    """LeRobot's policy of the fixture with an adapter, all of whose tensors are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(load(FIXTURE, folder / "base"), adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    have = {name.replace(".default.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    assert have.keys() == stored.keys(), have.keys() ^ stored.keys()
    assert all(torch.equal(have[name], tensor) for name, tensor in stored.items())
    return model


def main(evo1: str) -> int:
    differences = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        plain = ours(evo1, FIXTURE, root)
        for name, patterns in TRAINED.items():
            folder = root / name
            checkpoint = trained(evo1, patterns, folder)
            action = ours(evo1, checkpoint, folder)
            model = read(checkpoint / "adapter", folder)
            found = difference(theirs(model.base_model.model), action)
            merged, stored = model.merge_and_unload().state_dict(), load_file(checkpoint / "model.safetensors")
            weights = max(difference(merged[tensor], stored[tensor]) for tensor in stored)
            moved = difference(action, plain)
            print(f"{name}, written here: PEFT's action differs by {found:.1e}, merged weights by {weights:.1e}; "
                  f"the adapter moves the action by {moved:.1e}")
            assert moved > 100 * TOLERANCE
            differences += [found, weights]
        for name, settings in WRITTEN.items():
            folder = root / name
            torch.manual_seed(0)
            config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **settings)
            model = get_peft_model(load(FIXTURE, folder / "base"), config)
            model.save_pretrained(folder / "adapter")
            run(evo1, "convert", "--from", FIXTURE, "--adapter", folder / "adapter", "--to", folder / "merged", "--format", "lerobot")
            action = ours(evo1, folder / "merged", folder)
            found, moved = difference(theirs(model.base_model.model), action), difference(action, plain)
            print(f"{name}, written by PEFT: the action differs by {found:.1e}; the adapter moves it by {moved:.1e}")
            assert moved > 100 * TOLERANCE
            differences.append(found)
    return int(max(differences) > TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
