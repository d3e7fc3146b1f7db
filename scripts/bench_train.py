#!/usr/bin/env python3
"""Training steps a second in PyTorch, of the network that `recipes/metaworld-tiny.yaml` trains, on random inputs.

    scripts/bench_train.py [--stage 1|2] [--batch 32] [--draws 4] [--steps 50] [--threads 2]

The peer of `evo1 bench --policy evo1/assets/metaworld --views 2 --train 2 --batch 32 --draws 4`: forward, backward, global norm clipped to 1, AdamW. Needs torch only.
Prints one JSON object.
"""

import argparse
import json
import math
import resource
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VIEWS, IMAGE, PATCH, VISION, TEXT, WORDS, VOCABULARY = 2, 48, 6, 96, 128, 14, 40
HORIZON, ACTION, STATE, STATE_HIDDEN, HEADS = 8, 4, 8, 256, 4


class VisionLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(VISION, 1e-6), nn.LayerNorm(VISION, 1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(VISION, VISION) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(VISION, 4 * VISION), nn.Linear(4 * VISION, VISION)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(VISION)), nn.Parameter(torch.ones(VISION))

    def forward(self, x):
        y = self.norm1(x)
        y = F.scaled_dot_product_attention(*(heads(p(y), HEADS) for p in (self.q, self.k, self.v)))
        x = x + self.scale1 * self.out(merged(y))
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class LanguageLayer(nn.Module):
    def __init__(self, kv_heads=2, inner=384):
        super().__init__()
        self.kv_heads, width = kv_heads, TEXT // HEADS
        self.norm1, self.norm2 = nn.RMSNorm(TEXT, 1e-6), nn.RMSNorm(TEXT, 1e-6)
        self.q, self.k, self.v = nn.Linear(TEXT, TEXT), nn.Linear(TEXT, kv_heads * width), nn.Linear(TEXT, kv_heads * width)
        self.out = nn.Linear(TEXT, TEXT, bias=False)
        self.gate, self.up, self.down = (nn.Linear(*s, bias=False) for s in ((TEXT, inner), (TEXT, inner), (inner, TEXT)))

    def forward(self, x, cos, sin):
        y = self.norm1(x)
        q, k, v = heads(self.q(y), HEADS), heads(self.k(y), self.kv_heads), heads(self.v(y), self.kv_heads)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (t.repeat_interleave(HEADS // self.kv_heads, 1) for t in (k, v))
        x = x + self.out(merged(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(TEXT), nn.LayerNorm(TEXT)
        self.q, self.kv, self.out = nn.Linear(TEXT, TEXT), nn.Linear(TEXT, 2 * TEXT), nn.Linear(TEXT, TEXT)
        self.fc1, self.fc2 = nn.Linear(TEXT, 4 * TEXT), nn.Linear(4 * TEXT, TEXT)

    def context(self, tokens, draws):
        return [heads(t, HEADS).repeat_interleave(draws, 0) for t in self.kv(tokens).chunk(2, -1)]

    def forward(self, x, time, context):
        x = x + self.out(merged(F.scaled_dot_product_attention(heads(self.q(self.norm1(x)), HEADS), *context)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x) + time)))


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        patches = (IMAGE // PATCH) ** 2
        self.patch = nn.Conv2d(3, VISION, PATCH, PATCH)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, VISION)), nn.Parameter(torch.randn(1, 1 + patches, VISION))
        self.vision = nn.ModuleList([VisionLayer()])
        self.projector = nn.Sequential(nn.LayerNorm(4 * VISION), nn.Linear(4 * VISION, TEXT), nn.GELU(), nn.Linear(TEXT, TEXT))
        self.embed = nn.Embedding(VOCABULARY, TEXT)
        self.language, self.norm = nn.ModuleList([LanguageLayer()]), nn.RMSNorm(TEXT, 1e-6)
        self.state = nn.Sequential(nn.Linear(STATE, STATE_HIDDEN), nn.ReLU(), nn.Linear(STATE_HIDDEN, TEXT))
        self.w1, self.w2, self.w3 = nn.Linear(ACTION, TEXT), nn.Linear(TEXT, TEXT), nn.Linear(TEXT, TEXT)
        self.blocks, self.norm_out = nn.ModuleList([Block(), Block()]), nn.LayerNorm(TEXT)
        self.pool = nn.Linear(HORIZON * TEXT, TEXT)
        self.head = nn.Sequential(nn.Linear(TEXT, STATE_HIDDEN), nn.ReLU(), nn.Linear(STATE_HIDDEN, HORIZON * ACTION))

    def vlm(self, pixels, words):
        x = torch.cat([self.cls.expand(len(pixels), -1, -1), self.patch(pixels).flatten(2).transpose(1, 2)], 1) + self.positions
        for layer in self.vision:
            x = layer(x)
        side = IMAGE // PATCH
        grid = x[:, 1:].reshape(-1, side // 2, 2, side // 2, 2, VISION).permute(0, 1, 3, 2, 4, 5).reshape(len(x), -1, 4 * VISION)
        x = torch.cat([self.projector(grid).view(len(words), -1, TEXT), self.embed(words)], 1)
        cos, sin = rope(x.shape[1], TEXT // HEADS)
        for layer in self.language:
            x = layer(x, cos, sin)
        return self.norm(x)

    def loss(self, pixels, words, state, actions, draws, is_frozen):
        with torch.set_grad_enabled(not is_frozen):
            tokens = self.vlm(pixels, words)
        tokens = torch.cat([tokens, self.state(state)[:, None]], 1)
        actions = actions.repeat_interleave(draws, 0)
        tau = torch.distributions.Beta(2, 2).sample((len(actions),)).clamp(0.02, 0.98)
        noise = torch.rand_like(actions) * 2 - 1
        x_t = (1 - tau)[:, None, None] * noise + tau[:, None, None] * actions
        x = F.relu(self.w1(x_t)) + sinusoid(torch.arange(HORIZON))
        x = self.w3(F.relu(self.w2(x)))
        time_rows = sinusoid((tau * 999).long())[:, None]
        for block in self.blocks:
            x = block(x, time_rows, block.context(tokens, draws))
        velocity = self.head(self.pool(self.norm_out(x).flatten(1))).view_as(actions)
        return (velocity - (actions - noise)).square().mean()


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


def rope(length, width):
    angles = torch.arange(length)[:, None] / 1e6 ** (torch.arange(0, width, 2) / width)
    angles = torch.cat([angles, angles], 1)
    return angles.cos(), angles.sin()


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def sinusoid(rows):
    angles = rows[:, None] * torch.exp(torch.arange(0, TEXT, 2) * (-math.log(10000.0) / TEXT))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--stage", type=int, default=2, choices=[1, 2])
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--draws", type=int, default=4)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    policy, is_frozen = Policy(), args.stage == 1
    frozen = ("patch", "cls", "positions", "vision", "projector", "embed", "language", "norm.")
    trained = [x for n, x in policy.named_parameters() if not (is_frozen and n.startswith(frozen))]
    groups = [{"params": [x for x in trained if x.dim() > 1], "weight_decay": 1e-3},
              {"params": [x for x in trained if x.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.5e-3)
    data = (torch.randn(args.batch * VIEWS, 3, IMAGE, IMAGE), torch.randint(0, VOCABULARY, (args.batch, WORDS)),
            torch.randn(args.batch, STATE), torch.rand(args.batch, HORIZON, ACTION) * 2 - 1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = policy.loss(*data, args.draws, is_frozen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    for _ in range(5):
        step()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    times.sort()
    print(json.dumps({
        "torch": torch.__version__, "stage": args.stage, "batch": args.batch, "draws": args.draws,
        "parameters": sum(x.numel() for x in policy.parameters()), "trained": sum(x.numel() for x in trained),
        "step_p50_ms": round(1e3 * times[len(times) // 2], 2), "step_min_ms": round(1e3 * times[0], 2),
        "samples_per_second": round(args.batch / times[len(times) // 2], 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))


if __name__ == "__main__":
    main()
