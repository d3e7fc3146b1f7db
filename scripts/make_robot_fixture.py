#!/usr/bin/env python3
"""A LeRobot policy of a robot with two named cameras, and what LeRobot makes of its observations, pipelines included.

    python scripts/make_robot_fixture.py          # writes fixtures/lerobot-robot

The weights are those of `fixtures/tiny-lerobot`. States are normalised by mean and deviation, actions by quantiles; one camera
comes under another name, and the first view is of a camera that this robot lacks. Needs what `check_with_lerobot.py` needs.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from check_with_lerobot import FIXTURES, base_model
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.evo1.configuration_evo1 import Evo1Config
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file, save_file

SOURCE, TARGET = FIXTURES / "tiny-lerobot", FIXTURES / "lerobot-robot"
LACKING, WRIST, FRONT, CAM_HIGH = (f"observation.images.{name}" for name in ("empty_camera_0", "wrist", "front", "cam_high"))
INSTRUCTION = "push the block"
CASES = 2
STATE_DIM, ACTION_DIM = 4, 4


def statistics() -> dict[str, dict[str, torch.Tensor]]:
    def vector(width: int) -> dict[str, torch.Tensor]:
        ramp = torch.arange(1, width + 1, dtype=torch.float32)
        return {"min": -ramp, "max": 2 * ramp, "mean": 0.1 * ramp, "std": 0.5 + 0.1 * ramp, "q01": -0.9 * ramp, "q99": 1.7 * ramp}

    return {"observation.state": vector(STATE_DIM), "action": vector(ACTION_DIM)}


def configuration() -> Evo1Config:
    source = json.loads((SOURCE / "config.json").read_text())
    kept = ("chunk_size", "n_action_steps", "max_state_dim", "max_action_dim", "image_resolution", "vlm_num_layers", "embed_dim",
            "hidden_dim", "state_hidden_dim", "num_heads", "num_layers", "num_inference_timesteps")
    size = source["image_resolution"]
    camera = PolicyFeature(type=FeatureType.VISUAL, shape=(3, *size))
    return Evo1Config(
        **{key: tuple(source[key]) if key == "image_resolution" else source[key] for key in kept},
        input_features={LACKING: camera, WRIST: camera, FRONT: camera,
                        "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(STATE_DIM,))},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(ACTION_DIM,))},
        normalization_mapping={"VISUAL": NormalizationMode.IDENTITY, "STATE": NormalizationMode.MEAN_STD,
                               "ACTION": NormalizationMode.QUANTILES},
        max_views=3, empty_cameras=1, vlm_dtype="float32", use_flash_attn=False, use_amp=False, device="cpu",
        enable_gradient_checkpointing=False)


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    inputs, drawn = load_file(SOURCE / "inference.safetensors"), []
    draw = torch.rand

    def recorded(*shape, **options):
        drawn.append(draw(*shape, **options))
        return drawn[-1]

    with tempfile.TemporaryDirectory() as temporary:
        base, folder = Path(temporary) / "base", Path(temporary) / "policy"
        base_model(SOURCE, base)
        config = configuration()
        config.vlm_model_name = str(base)
        policy = Evo1Policy(config).float().eval()
        policy.load_state_dict(load_file(SOURCE / "model.safetensors"), strict=True)
        before, after = make_pre_post_processors(config, dataset_stats=statistics())
        before.steps[0].rename_map = {CAM_HIGH: FRONT}
        config.vlm_model_name = "tiny-internvl"
        config.save_pretrained(TARGET)
        before.save_pretrained(TARGET)
        after.save_pretrained(TARGET)
        values = {}
        for case in range(CASES):
            state = torch.linspace(-1, 1, STATE_DIM) * (case + 1)
            frames = {camera: inputs["in.images_u8"][case, view] for view, camera in enumerate([CAM_HIGH, WRIST])}
            observation = {camera: frame.float() / 255 for camera, frame in frames.items()}
            torch.manual_seed(case)
            torch.rand = recorded
            chunk = policy.predict_action_chunk(before({**observation, "observation.state": state, "task": INSTRUCTION}))
            torch.rand = draw
            values |= {f"{case}.state": state, f"{case}.noise": (drawn[-1] * 2 - 1).flatten(),
                       f"{case}.actions": torch.stack([after(action) for action in chunk[0]])}
            values |= {f"{case}.{camera}": frame.permute(1, 2, 0).contiguous() for camera, frame in frames.items()}
        save_file(values, TARGET / "observations.safetensors")


if __name__ == "__main__":
    main()
