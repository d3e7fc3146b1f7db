#!/usr/bin/env python3
"""Writes the PyTorch files that the tests read: fixtures/pytorch and fixtures/tiny-authors. Needs torch, safetensors."""

import json
import os
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

fixtures = Path(__file__).parent.parent / "fixtures"
out = fixtures / "pytorch"
out.mkdir(parents=True, exist_ok=True)

matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3)
tensors = {"matrix": matrix, "view": matrix.T, "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16)}
torch.save(tensors, out / "bare.pt")
torch.save({"module": tensors, "global_steps": 7, "ds_version": "0.14", "optimizer": None}, out / "module.pt")
torch.save({"step": 7, "model_state_dict": tensors, "config": {"horizon": 50}}, out / "model_state_dict.pt")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/evo1-pickle-was-executed",)


(out / "os_system.pt").write_bytes(pickle.dumps({"module": Malicious()}, protocol=2))

# The weights of tiny-official as DeepSpeed saves them for the authors' code, with a configuration in their keys.
official, authors = fixtures / "tiny-official", fixtures / "tiny-authors"
authors.mkdir(exist_ok=True)
weights = load_file(official / "model_original_layout.safetensors")
torch.save({"module": weights, "global_steps": 1}, authors / "mp_rank_00_model_states.pt")
for name in ("vlm_config.json", "tokenizer.json"):
    shutil.copy(official / name, authors / name)
config = json.loads((official / "config.json").read_text())
keys = {"chunk_size": "horizon", "max_action_dim": "per_action_dim", "max_state_dim": "state_dim"}
same = ("embed_dim", "hidden_dim", "state_hidden_dim", "num_heads", "num_layers", "num_inference_timesteps", "dropout",
        "num_categories", "return_cls_only", "vlm_num_layers", "max_text_length", "max_views")
theirs = {theirs: config[ours] for ours, theirs in keys.items()} | {key: config[key] for key in same}
theirs |= {"vlm_name": "OpenGVLab/InternVL3-1B", "image_size": 56, "lr": 1e-5, "finetune_action_head": True}
(authors / "config.json").write_text(json.dumps(theirs, indent=1) + "\n")
