#!/usr/bin/env python
"""How far PyTorch is from itself in half precision: the errors of every tensor of the fixtures in bf16 and f16.

    python scripts/make_half_precision_fixtures.py fixtures

Runs the networks of the `tiny-*` fixtures with plain torch functions in f32, which must give the recorded tensors, then in
bf16 and in f16 with everything in that type but the sampler's state, and writes `half-precision.json`: by fixture and type,
the norm of each tensor's difference from the recorded one over the norm of that. Needs torch and safetensors.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

FIXTURES = ["lerobot", "official", "multiembodiment", "horizon1", "train-lerobot", "train-official"]


def sinusoid(rows, width):
    frequencies = torch.exp(torch.arange(0, width, 2) * -(math.log(1e4) / width))
    angle = torch.tensor([float(row) for row in rows])[:, None] * frequencies
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def split_heads(x, heads, queries_of_each=1):
    """`[batch, tokens, channels]` to `[batch, heads, tokens, width]`, each head repeated for the queries that it serves."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).repeat_interleave(queries_of_each, 1)


def attend(q, k, v, visible=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)


class Network:
    def __init__(self, weights, dims, dtype):
        self.w = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        self.d, self.dtype, self.t = dims, dtype, {}

    def put(self, name, tensor):
        self.t[name] = tensor
        return tensor

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def layer_norm(self, x, name, epsilon):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], epsilon)

    def rms_norm(self, x, name):
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.w[f"{name}.weight"] * normed.to(self.dtype)

    def vision(self, pixels):
        root, d = "model.embedder.model.vision_tower", self.d
        patches = F.conv2d(pixels.to(self.dtype), self.w[f"{root}.embeddings.patch_embeddings.projection.weight"],
                           self.w[f"{root}.embeddings.patch_embeddings.projection.bias"], stride=d["patch_size"])
        patches = patches.flatten(2).transpose(1, 2)
        cls = self.w[f"{root}.embeddings.cls_token"].expand(len(patches), -1, -1)
        x = self.put("vision.embeddings", torch.cat([cls, patches], 1) + self.w[f"{root}.embeddings.position_embeddings"])
        for i in range(d["vit_layers"]):
            layer = f"{root}.encoder.layer.{i}"
            y = self.layer_norm(x, f"{layer}.layernorm_before", 1e-6)
            q, k, v = (split_heads(self.linear(y, f"{layer}.attention.{part}_proj"), d["vit_heads"]) for part in "qkv")
            x = x + self.w[f"{layer}.lambda_1"] * self.linear(attend(q, k, v), f"{layer}.attention.projection_layer")
            y = F.gelu(self.linear(self.layer_norm(x, f"{layer}.layernorm_after", 1e-6), f"{layer}.mlp.fc1"))
            x = self.put(f"vision.layer.{i}", x + self.w[f"{layer}.lambda_2"] * self.linear(y, f"{layer}.mlp.fc2"))
        side = d["image_size"] // d["patch_size"]
        grid = x[:, 1:].unflatten(1, (side, side))
        x = torch.cat([grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], -1).flatten(1, 2)
        self.put("vision.pixel_shuffle", x)
        root = "model.embedder.model.multi_modal_projector"
        x = self.put("projector.layer_norm", self.layer_norm(x, f"{root}.layer_norm", 1e-5))
        return self.put("projector.out", self.linear(F.gelu(self.linear(x, f"{root}.linear_1")), f"{root}.linear_2"))

    def language(self, ids, mask, image_token, visual):
        root, d = "model.embedder.model.language_model", self.d
        embeds = self.w[f"{root}.embed_tokens.weight"][ids]
        x = embeds.masked_scatter((ids == image_token)[..., None].expand_as(embeds), visual)
        self.put("llm.inputs_embeds", x)
        heads, kv_heads, length = d["llm_heads"], d["llm_kv_heads"], ids.shape[1]
        width = d["llm_hidden"] // heads
        angle = torch.outer(torch.arange(length).float(), d["rope_theta"] ** (-torch.arange(0, width, 2).float() / width))
        cos, sin = angle.repeat(1, 2).cos().to(self.dtype), angle.repeat(1, 2).sin().to(self.dtype)
        rotate = lambda x: x * cos + torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1) * sin
        visible = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
        for i in range(d["llm_keep"]):
            layer = f"{root}.layers.{i}"
            y = self.rms_norm(x, f"{layer}.input_layernorm")
            q = split_heads(self.linear(y, f"{layer}.self_attn.q_proj"), heads)
            k, v = (split_heads(self.linear(y, f"{layer}.self_attn.{part}_proj"), kv_heads, heads // kv_heads) for part in "kv")
            x = x + self.linear(attend(rotate(q), rotate(k), v, visible), f"{layer}.self_attn.o_proj")
            y = self.rms_norm(x, f"{layer}.post_attention_layernorm")
            y = F.silu(self.linear(y, f"{layer}.mlp.gate_proj")) * self.linear(y, f"{layer}.mlp.up_proj")
            x = self.put(f"llm.layer.{i}", x + self.linear(y, f"{layer}.mlp.down_proj"))
        return self.put("llm.final_norm", self.rms_norm(x, f"{root}.norm"))

    def category(self, x, name, ids):
        """Of `[batch, tokens, channels]`."""
        if self.d["num_categories"] <= 1:
            return self.linear(x, f"{name}.linear")
        return torch.bmm(x, self.w[f"{name}.weight"][ids]) + self.w[f"{name}.bias"][ids][:, None]

    def mlp(self, x, name, ids):
        return self.category(F.relu(self.category(x, f"{name}.fc1", ids)), f"{name}.fc2", ids)

    def velocity(self, actions, row, context, visible, ids, prefix):
        root, d = "model.action_head", self.d
        embed, batch = d["llm_hidden"], len(actions)
        actions = actions.to(self.dtype)
        if d["horizon"] > 1:
            encoder = f"{root}.action_encoder"
            x = F.relu(self.category(actions, f"{encoder}.W1", ids)) + sinusoid(range(d["horizon"]), embed).to(self.dtype)
            x = self.category(F.relu(self.category(x, f"{encoder}.W2", ids)), f"{encoder}.W3", ids)
        else:
            x = self.linear(actions, f"{root}.single_action_proj")
        self.put(f"{prefix}action_tokens", x)
        time = sinusoid([row], embed).to(self.dtype)
        for i in range(d["head_layers"]):
            block = f"{root}.transformer_blocks.{i}"
            y = self.layer_norm(x, f"{block}.norm1", 1e-5)
            weights, biases = self.w[f"{block}.attn.in_proj_weight"].chunk(3), self.w[f"{block}.attn.in_proj_bias"].chunk(3)
            of = zip((y, context, context), weights, biases)
            q, k, v = (split_heads(F.linear(z, weight, bias), d["head_heads"]) for z, weight, bias in of)
            x = x + self.linear(attend(q, k, v, visible), f"{block}.attn.out_proj")
            y = self.layer_norm(x, f"{block}.norm2", 1e-5) + time
            x = self.put(f"{prefix}block.{i}", x + self.linear(F.gelu(self.linear(y, f"{block}.ff.0")), f"{block}.ff.2"))
        x = self.put(f"{prefix}norm_out", self.layer_norm(x, f"{root}.norm_out", 1e-5))
        x = self.linear(x.flatten(1), f"{root}.seq_pool_proj") if d["horizon"] > 1 else x[:, 0]
        self.put(f"{prefix}pooled", x)
        return self.mlp(x[:, None], f"{root}.mlp_head", ids).reshape(batch, d["horizon"], -1)

    def predict(self, r, image_token, is_lerobot):
        fused = self.language(r["in.input_ids"], r["in.attention_mask"], image_token, self.vision(r["in.pixel_values"]))
        ids, mask, steps = r["in.embodiment_id"], r["in.action_mask"], self.d["steps"]
        state = self.mlp(r["in.padded_state"].to(self.dtype)[:, None], "model.action_head.state_encoder", ids)
        self.put("head.state_token", state)
        context = self.put("head.context", torch.cat([fused, state], 1))
        visible = F.pad(r["in.attention_mask"].bool(), (0, 1), value=True)[:, None, None] if is_lerobot else None
        actions = r["in.noise"] * (mask if is_lerobot else 1)
        for step in range(steps):
            prefix = f"head.step.{step:02d}."
            seen = self.put(f"{prefix}action_in", actions * mask)
            velocity = self.velocity(seen, min(int(step / steps * 999), 999), context, visible, ids, prefix)
            velocity = self.put(f"{prefix}velocity", velocity).float()
            actions = actions + velocity * (mask if is_lerobot else 1) / steps
        self.put("out.action", actions * mask)
        return self.t


def errors(tensors, recorded):
    """By name; tensors that are equal have none."""
    out = {}
    for name in sorted(tensors.keys() & recorded.keys()):
        error = (tensors[name].float().reshape(recorded[name].shape) - recorded[name]).norm() / recorded[name].norm()
        if error > 0:
            out[name] = float(f"{error:.4g}")
    return out


def main():
    root = Path(sys.argv[1])
    out = {}
    for name in (f"tiny-{fixture}" for fixture in FIXTURES):
        folder = root / name
        meta, weights = json.loads((folder / "meta.json").read_text()), load_file(folder / "model.safetensors")
        recorded = load_file(folder / "inference.safetensors")
        added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        image_token = next(token["id"] for token in added if token["content"] == "<IMG_CONTEXT>")
        is_lerobot = meta["flavour"] == "lerobot"
        run = lambda dtype: errors(Network(weights, meta["dims"], dtype).predict(recorded, image_token, is_lerobot), recorded)
        with torch.no_grad():
            worst = max(run(torch.float32).items(), key=lambda item: item[1])
            assert worst[1] < 1e-5, f"{name} in f32: {worst}"
            out[name] = {"bf16": run(torch.bfloat16), "f16": run(torch.float16)}
        print(name, len(out[name]["bf16"]), {dtype: found["out.action"] for dtype, found in out[name].items()})
    (root / "half-precision.json").write_text(json.dumps({"torch": torch.__version__.split("+")[0], "errors": out}, indent=1) + "\n")


main()
