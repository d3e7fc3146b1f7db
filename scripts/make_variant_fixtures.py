#!/usr/bin/env python
"""Golden values of the action expert's variants, from a PyTorch version that shares nothing with the Rust one.

    python scripts/make_variant_fixtures.py fixtures/variants

Writes `variants.json`, the configurations, and a small safetensors file for each: weights, inputs, velocity, gradients
and integrated actions. Needs torch and safetensors. Tensors of parameters carry the names and layout of the Rust modules
(linear weights `[in, out]`, PyTorch's fused attention projection split into queries and keys with values).
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

EMBED, HIDDEN, STATE_HIDDEN, HEADS, BLOCKS, ACTION, STATE = 8, 12, 10, 2, 3, 4, 5
BATCH, CONTEXT, STEPS, KAPPA = 2, 5, 3, 999.0
BASE = dict(embed_dim=EMBED, hidden_dim=HIDDEN, state_hidden_dim=STATE_HIDDEN, num_heads=HEADS, num_layers=BLOCKS,
            horizon=3, max_action_dim=ACTION, max_state_dim=STATE, num_categories=1, dropout=0.0)
VARIANTS = {
    "mid-layer-cross": dict(design={}),
    "interleaved": dict(design=dict(integration="interleaved")),
    "layer-wise": dict(design=dict(integration="layer-wise")),
    "joint-kv": dict(design=dict(integration="joint-kv")),
    "ada-ln": dict(design=dict(time="ada-ln")),
    "per-step": dict(design=dict(state="per-step", head="per-step")),
    "everything": dict(num_categories=3, design=dict(integration="joint-kv", state="per-step", time="ada-ln",
                                                     head="per-step")),
    "horizon-1": dict(horizon=1, design=dict(integration="joint-kv", state="absent")),
}


def sinusoid(rows, width):
    """Even channels sin(p / 10000^(c / width)), odd ones the cosine of the same angle."""
    table = torch.zeros(len(rows), width)
    for r, p in enumerate(rows):
        for c in range(0, width, 2):
            angle = p * math.exp(-c * math.log(10000.0) / width)
            table[r, c], table[r, c + 1] = math.sin(angle), math.cos(angle)
    return table


class PerCategory(nn.Module):
    """y = x W[k] + b[k]; one plain linear layer where there is one category."""

    def __init__(self, i, o, k):
        super().__init__()
        self.k = k
        if k > 1:
            self.weight = nn.Parameter(torch.randn(k, i, o) * 0.3)
            self.bias = nn.Parameter(torch.randn(k, o) * 0.3)
        else:
            self.linear = nn.Linear(i, o)

    def forward(self, x, ids):
        if self.k <= 1:
            return self.linear(x)
        rows = [x[b] @ self.weight[i] + self.bias[i] for b, i in enumerate(ids)]
        return torch.stack(rows)


class Mlp(nn.Module):
    def __init__(self, i, h, o, k):
        super().__init__()
        self.fc1, self.fc2 = PerCategory(i, h, k), PerCategory(h, o, k)

    def forward(self, x, ids):
        return self.fc2(torch.relu(self.fc1(x, ids)), ids)


class Block(nn.Module):
    def __init__(self, ada):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(EMBED), nn.LayerNorm(EMBED)
        self.attn = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
        self.ff = nn.Sequential(nn.Linear(EMBED, 4 * EMBED), nn.GELU(), nn.Linear(4 * EMBED, EMBED))
        self.modulation = nn.Linear(EMBED, 6 * EMBED) if ada else None

    def forward(self, x, time, memory, memory_hidden, own):
        """`memory` None: self-attention. `own`: own tokens are keys after the memory's."""

        def attend(q):
            keys, hidden = (q, torch.zeros(q.shape[:2], dtype=torch.bool)) if memory is None else (memory, memory_hidden)
            if own:
                keys = torch.cat([keys, q], 1)
                hidden = torch.cat([hidden, torch.zeros(q.shape[:2], dtype=torch.bool)], 1)
            return self.attn(q, keys, keys, key_padding_mask=hidden, need_weights=False)[0]

        if self.modulation is None:
            x = x + attend(self.norm1(x))
            return x + self.ff(self.norm2(x) + time[:, None])
        s1, c1, g1, s2, c2, g2 = self.modulation(time)[:, None].chunk(6, -1)
        x = x + g1 * attend(self.norm1(x) * (1 + c1) + s1)
        return x + g2 * self.ff(self.norm2(x) * (1 + c2) + s2)


class Expert(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config["design"]
        self.integration = d.get("integration", "mid-layer-cross")
        self.state, self.horizon = d.get("state", "token"), config["horizon"]
        self.per_step, k = d.get("head") == "per-step", config["num_categories"]
        ada = d.get("time") == "ada-ln"
        if self.state != "absent":
            self.state_encoder = Mlp(STATE, STATE_HIDDEN, EMBED, k)
        if self.horizon > 1:
            self.w1, self.w2, self.w3 = (PerCategory(i, EMBED, k) for i in (ACTION, EMBED, EMBED))
        else:
            self.single = nn.Linear(ACTION, EMBED)
        if ada:
            self.time1, self.time2 = nn.Linear(EMBED, EMBED), nn.Linear(EMBED, EMBED)
        self.ada = ada
        self.blocks = nn.ModuleList(Block(ada) for _ in range(BLOCKS))
        self.norm_out = nn.LayerNorm(EMBED)
        if not self.per_step:
            self.pool = nn.Linear(self.horizon * EMBED, EMBED)
        self.head = Mlp(EMBED, HIDDEN, ACTION if self.per_step else self.horizon * ACTION, k)

    def forward(self, actions, rows, tokens, layers, hidden, state, ids):
        if self.horizon > 1:
            x = torch.relu(self.w1(actions, ids)) + sinusoid(range(self.horizon), EMBED)
            x = self.w3(torch.relu(self.w2(x, ids)), ids)
        else:
            x = self.single(actions)
        if self.state != "absent":
            token = self.state_encoder(state[:, None], ids)
        if self.state == "token":
            tokens, layers = torch.cat([tokens, token], 1), [torch.cat([layer, token], 1) for layer in layers]
            hidden = torch.cat([hidden, torch.zeros(len(hidden), 1, dtype=torch.bool)], 1)
        if self.state == "per-step":
            x = x + token
        time = sinusoid(rows, EMBED)
        if self.ada:
            time = F.silu(self.time2(F.silu(self.time1(time))))
        for i, block in enumerate(self.blocks):
            memory = {"layer-wise": layers[i], "interleaved": tokens if i % 2 == 0 else None}.get(self.integration, tokens)
            x = block(x, time, memory, hidden, self.integration == "joint-kv")
        x = self.norm_out(x)
        if self.per_step:
            return self.head(x, ids)
        flat = x.flatten(1)
        pooled = self.pool(flat) if self.horizon > 1 else flat
        return self.head(pooled[:, None], ids).reshape(actions.shape)

    def integrate(self, noise, mask, solver, *context):
        """N steps of dx/dt = v(x·mask, t), then the mask; times read the table's row floor(κ t)."""

        def v(x, t):
            return self(x * mask, [min(int(t * KAPPA), 999)] * BATCH, *context)

        x, h = noise, 1.0 / STEPS
        for i in range(STEPS):
            t, v1 = i / STEPS, v(x, i / STEPS)
            if solver == "euler":
                x = x + h * v1
            elif solver == "heun":
                x = x + h / 2 * (v1 + v(x + h * v1, (i + 1) / STEPS))
            else:
                x = x + h * v(x + h / 2 * v1, (i + 0.5) / STEPS)
        return x * mask


def named(module, of):
    """Parameters (or what `of` makes of them) under the Rust modules' names and in their layout."""
    out = {}

    def linear(name, m):
        if m is None or of(m.weight) is None:
            return
        out[f"{name}.weight"], out[f"{name}.bias"] = of(m.weight).T, of(m.bias)

    def norm(name, m):
        out[f"{name}.gamma"], out[f"{name}.beta"] = of(m.weight), of(m.bias)

    def category(name, m):
        if m.k <= 1:
            return linear(f"{name}.Shared", m.linear)
        out[f"{name}.PerCategory.weight"], out[f"{name}.PerCategory.bias"] = of(m.weight), of(m.bias)

    def mlp(name, m):
        category(f"{name}.fc1", m.fc1)
        category(f"{name}.fc2", m.fc2)

    if module.state != "absent":
        mlp("state_encoder", module.state_encoder)
    if module.horizon > 1:
        for i in (1, 2, 3):
            category(f"action_encoder.w{i}", getattr(module, f"w{i}"))
    else:
        linear("single_action_proj", module.single)
    if module.ada:
        linear("time_mlp.linear_1", module.time1)
        linear("time_mlp.linear_2", module.time2)
    for i, b in enumerate(module.blocks):
        name = f"blocks.{i}"
        norm(f"{name}.norm1", b.norm1)
        norm(f"{name}.norm2", b.norm2)
        w, bias = of(b.attn.in_proj_weight), of(b.attn.in_proj_bias)
        for part, rows in (("q_proj", slice(0, EMBED)), ("kv_proj", slice(EMBED, 3 * EMBED))):
            out[f"{name}.cross_attention.{part}.weight"] = w[rows].T
            out[f"{name}.cross_attention.{part}.bias"] = bias[rows]
        linear(f"{name}.cross_attention.out_proj", b.attn.out_proj)
        linear(f"{name}.feed_forward.linear_1", b.ff[0])
        linear(f"{name}.feed_forward.linear_2", b.ff[2])
        linear(f"{name}.modulation", b.modulation)
    norm("norm_out", module.norm_out)
    if not module.per_step:
        linear("seq_pool_proj", module.pool)
    mlp("mlp_head", module.head)
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    configs = {}
    for seed, (name, changes) in enumerate(VARIANTS.items()):
        torch.manual_seed(seed)
        config = {**BASE, **changes}
        configs[name] = config
        expert = Expert(config)
        with torch.no_grad():
            for p in expert.parameters():
                p.add_(torch.randn_like(p) * 0.1)  # no weight of a norm is one, no bias zero
        tokens = torch.randn(BATCH, CONTEXT, EMBED, requires_grad=True)
        layers = [torch.randn(BATCH, CONTEXT, EMBED, requires_grad=True) for _ in range(BLOCKS)]
        hidden = torch.zeros(BATCH, CONTEXT, dtype=torch.bool)
        hidden[1, 3:] = True
        state = torch.randn(BATCH, STATE, requires_grad=True)
        ids = [2, 0] if config["num_categories"] > 1 else [0, 0]
        actions = torch.randn(BATCH, config["horizon"], ACTION, requires_grad=True)
        rows = [137, 820]
        velocity = expert(actions, rows, tokens, layers, hidden, state, ids)
        weight = torch.randn_like(velocity)
        (velocity * weight).sum().backward()
        mask = torch.ones_like(actions)
        mask[:, :, -1] = 0
        tensors = {
            "in.tokens": tokens, "in.layers": torch.stack(layers), "in.hidden": hidden.int(), "in.state": state,
            "in.embodiment": torch.tensor(ids), "in.actions": actions, "in.time_rows": torch.tensor(rows),
            "in.loss_weight": weight, "in.mask": mask, "out.velocity": velocity,
            "grad.in.actions": actions.grad,
        }
        # A tensor that the variant does not use has no gradient.
        for key, value in (("tokens", tokens.grad), ("state", state.grad)):
            if value is not None:
                tensors[f"grad.in.{key}"] = value
        if layers[0].grad is not None:
            tensors["grad.in.layers"] = torch.stack([layer.grad for layer in layers])
        for solver in ("euler", "heun", "midpoint"):
            with torch.no_grad():
                tensors[f"out.{solver}"] = expert.integrate(actions, mask, solver, tokens, layers, hidden, state, ids)
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        tensors |= {f"param.{k}": v for k, v in named(expert, lambda p: p).items()}
        tensors |= {f"grad.{k}": v for k, v in named(expert, lambda p: p.grad).items()}
        save_file(tensors, out / f"{name}.safetensors")
    (out / "variants.json").write_text(json.dumps(configs, indent=1) + "\n")


if __name__ == "__main__":
    main()
