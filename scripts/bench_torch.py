#!/usr/bin/env python
"""Times Evo-1 at its full size, with random weights, in PyTorch: the peer of `evo1 bench --preset evo1`. Prints JSON.

    bench_torch.py                    the fastest that plain PyTorch gets: fused attention, keys and values once
    bench_torch.py --impl lerobot     what LeRobot runs: transformers' InternVL and lerobot's action head
    bench_torch.py --device cuda --dtype bf16 --graph                          the whole prediction as one CUDA graph
    bench_torch.py --device cuda --dtype bf16 --graph --compile max-autotune   the same of compiled layers

Needs torch; `--impl lerobot` needs transformers and lerobot too. `--dtype lerobot` is LeRobot's default on a CPU: the
vision-language model in bf16, the action expert in f32. `tf32` is f32 whose products may round their operands to TF32.

`--compile` compiles a layer of each stack, which all layers of it share, and the velocity of a step; with `--graph` it
is what the modes `reduce-overhead` (`--compile default`) and `max-autotune` do, with one graph in place of several.
With `--graph` the time of a stage is that of a graph of that stage, and `total` that of one graph of everything.
"""

import argparse
import importlib.util
import json
import math
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

VISION = dict(width=1024, layers=24, heads=16, mlp=4096, patch=14, image=448)
LANGUAGE = dict(width=896, layers=14, heads=14, kv_heads=2, mlp=4864, vocabulary=151_674, theta=1e6)
ACTION = dict(layers=8, heads=8, hidden=1024, horizon=50, dims=24)
IMAGE_TOKEN, TOKENS_PER_VIEW = 1, 256


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q, k, v, causal=False):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class VisionLayer(nn.Module):
    def __init__(self):
        super().__init__()
        width, mlp = VISION["width"], VISION["mlp"]
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.scale1, self.scale2 = nn.Parameter(torch.full((width,), 0.1)), nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        q, k, v = (heads(part, VISION["heads"]) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.scale1 * self.out(attend(q, k, v))
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vision(nn.Module):
    """Pixels to visual tokens: tower, pixel-unshuffle, projector."""

    def __init__(self):
        super().__init__()
        width, side = VISION["width"], VISION["image"] // VISION["patch"]
        self.patches = nn.Conv2d(3, width, VISION["patch"], VISION["patch"])
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, side**2 + 1, width))
        self.layers = nn.ModuleList(VisionLayer() for _ in range(VISION["layers"]))
        self.projector = nn.Sequential(
            nn.LayerNorm(4 * width), nn.Linear(4 * width, LANGUAGE["width"]), nn.GELU(), nn.Linear(LANGUAGE["width"], LANGUAGE["width"])
        )

    def tower(self, pixels):
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return x

    def project(self, x):
        side = math.isqrt(x.shape[1] - 1) // 2
        x = x[:, 1:].unflatten(1, (side, 2, side, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.projector(x)

    def forward(self, pixels):
        return self.project(self.tower(pixels))


class LanguageLayer(nn.Module):
    def __init__(self):
        super().__init__()
        width, kv_width = LANGUAGE["width"], LANGUAGE["width"] // LANGUAGE["heads"] * LANGUAGE["kv_heads"]
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, kv_width), nn.Linear(width, kv_width)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, LANGUAGE["mlp"], bias=False) for _ in range(2))
        self.down = nn.Linear(LANGUAGE["mlp"], width, bias=False)

    def forward(self, x, cos, sin):
        normed = self.norm1(x)
        q, k, v = heads(self.q(normed), LANGUAGE["heads"]), heads(self.k(normed), LANGUAGE["kv_heads"]), heads(self.v(normed), LANGUAGE["kv_heads"])
        rotated = lambda t: t * cos + torch.cat([-t[..., t.shape[-1] // 2 :], t[..., : t.shape[-1] // 2]], -1) * sin
        group = LANGUAGE["heads"] // LANGUAGE["kv_heads"]
        k, v = rotated(k).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        x = x + self.out(attend(rotated(q), k, v, causal=True))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(LANGUAGE["vocabulary"], LANGUAGE["width"])
        self.layers = nn.ModuleList(LanguageLayer() for _ in range(LANGUAGE["layers"]))
        self.norm = nn.RMSNorm(LANGUAGE["width"], eps=1e-6)

    def forward(self, ids, visual):
        x = self.embed(ids)
        x = x.masked_scatter((ids == IMAGE_TOKEN)[..., None].expand_as(x), visual.to(x.dtype))
        width = LANGUAGE["width"] // LANGUAGE["heads"]
        frequencies = LANGUAGE["theta"] ** (-torch.arange(0, width, 2, device=x.device) / width)
        angles = torch.outer(torch.arange(x.shape[1], device=x.device).float(), frequencies).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def keys_values(self, context):
        return [heads(part, ACTION["heads"]) for part in self.kv(context).chunk(2, -1)]

    def forward(self, x, keys_values, time):
        x = x + self.out(attend(heads(self.q(self.norm1(x)), ACTION["heads"]), *keys_values))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x) + time)))


def sinusoid(rows, width):
    angles = torch.outer(torch.arange(rows).float(), torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width)))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Action(nn.Module):
    def __init__(self):
        super().__init__()
        width, hidden, horizon, dims = LANGUAGE["width"], ACTION["hidden"], ACTION["horizon"], ACTION["dims"]
        mlp = lambda a, b, c: nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c))
        self.state = mlp(dims, hidden, width)
        self.w1, self.w2, self.w3 = nn.Linear(dims, width), nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(ACTION["layers"]))
        self.norm, self.pool = nn.LayerNorm(width), nn.Linear(horizon * width, width)
        self.out = mlp(width, hidden, horizon * dims)
        self.register_buffer("times", sinusoid(1000, width))
        self.register_buffer("steps", sinusoid(horizon, width))

    def keys_values(self, fused, state):
        context = torch.cat([fused, self.state(state)[:, None]], 1)
        return [block.keys_values(context) for block in self.blocks]

    def velocity(self, actions, keys_values, time):
        x = self.w3(F.relu(self.w2(F.relu(self.w1(actions)) + self.steps)))
        for block, of_block in zip(self.blocks, keys_values):
            x = block(x, of_block, time)
        return self.out(self.pool(self.norm(x).flatten(1))).view_as(actions)

    def forward(self, fused, state, steps):
        keys_values = self.keys_values(fused, state)
        actions = torch.rand(len(fused), ACTION["horizon"], ACTION["dims"], device=fused.device, dtype=fused.dtype) * 2 - 1
        for step in range(steps):
            actions = actions + self.velocity(actions, keys_values, self.times[int(step / steps * 999)]) / steps
        return actions


class LeRobot(nn.Module):
    """The same stages out of transformers and lerobot."""

    def __init__(self, steps):
        super().__init__()
        from transformers import InternVLConfig, InternVLModel, Qwen2Config

        spec = importlib.util.find_spec("lerobot")
        path = Path(spec.submodule_search_locations[0]) / "policies" / "evo1" / "flow_matching.py"
        spec = importlib.util.spec_from_file_location("flow_matching", path)
        flow_matching = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(flow_matching)
        text = Qwen2Config(
            vocab_size=LANGUAGE["vocabulary"], hidden_size=LANGUAGE["width"], intermediate_size=LANGUAGE["mlp"],
            num_hidden_layers=LANGUAGE["layers"], num_attention_heads=LANGUAGE["heads"],
            num_key_value_heads=LANGUAGE["kv_heads"], rms_norm_eps=1e-6, use_cache=False,
            rope_parameters={"rope_type": "default", "rope_theta": LANGUAGE["theta"]},
        )
        config = InternVLConfig(
            vision_config=dict(
                hidden_size=VISION["width"], num_hidden_layers=VISION["layers"], num_attention_heads=VISION["heads"],
                intermediate_size=VISION["mlp"], image_size=[VISION["image"]] * 2, patch_size=[VISION["patch"]] * 2,
                attention_bias=True,
            ),
            text_config=text.to_dict(), image_token_id=IMAGE_TOKEN, image_seq_length=TOKENS_PER_VIEW,
        )
        self.vlm = InternVLModel._from_config(config, attn_implementation="eager")
        self.head = flow_matching.FlowmatchingActionHead(
            embed_dim=LANGUAGE["width"], hidden_dim=ACTION["hidden"], action_dim=ACTION["horizon"] * ACTION["dims"],
            horizon=ACTION["horizon"], per_action_dim=ACTION["dims"], num_heads=ACTION["heads"],
            num_layers=ACTION["layers"], num_inference_timesteps=steps, state_dim=ACTION["dims"], state_hidden_dim=1024,
        )

    def tower(self, pixels):
        return self.vlm.vision_tower(pixel_values=pixels).last_hidden_state

    def project(self, x):
        x = x[:, 1:]
        side = math.isqrt(x.shape[1])
        return self.vlm.multi_modal_projector(self.vlm.pixel_shuffle(x.unflatten(1, (side, side)), 0.5).flatten(1, 2))

    def language(self, ids, visual):
        x = self.vlm.language_model.embed_tokens(ids)
        x = x.masked_scatter((ids == IMAGE_TOKEN)[..., None].expand_as(x), visual.to(x.dtype))
        return self.vlm.language_model(inputs_embeds=x, attention_mask=torch.ones_like(ids)).last_hidden_state

    def action(self, fused, state, steps):
        mask = torch.ones(len(fused), ACTION["dims"], device=fused.device)
        seen = torch.ones(fused.shape[:2], dtype=torch.bool, device=fused.device)
        return self.head.get_action(fused, state=state, action_mask=mask, context_mask=seen)


class Loss(nn.Module):
    """Flow matching of the plain network; the vision-language model is trained in stage 2 alone."""

    def __init__(self, stage, vision, language, action):
        super().__init__()
        self.stage, self.vision, self.language, self.action = stage, vision, language, action

    def forward(self, pixels, ids, state, target):
        action = self.action
        with torch.set_grad_enabled(self.stage == 2):
            fused = self.language(ids, self.vision(pixels))
        noise, tau = torch.rand_like(target) * 2 - 1, torch.rand(len(state), 1, 1, device=state.device)
        times = action.times[(tau.flatten() * 999).long()][:, None]
        between = ((1 - tau) * noise + tau * target).to(state.dtype)
        got = action.velocity(between, action.keys_values(fused, state), times)
        return F.mse_loss(got.float(), target - noise)


def train(stage, modules, dtype, pixels, ids, state, repeat, sync):
    """Milliseconds of training steps of plain PyTorch: weights, gradients and AdamW in f32, the network in `dtype`."""
    loss = Loss(stage, *modules)
    trained = list(loss.parameters() if stage == 2 else loss.action.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=1e-5, fused=state.is_cuda)
    target = torch.full((len(state), ACTION["horizon"], ACTION["dims"]), 0.5, device=state.device)
    samples = []
    for run in range(repeat + 1):
        sync()
        start = time.perf_counter()
        cast = {name: value.to(dtype) for name, value in [*loss.named_parameters(), *loss.named_buffers()]}
        optimizer.zero_grad()
        torch.func.functional_call(loss, cast, (pixels, ids, state, target)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        sync()
        if run:
            samples.append(1e3 * (time.perf_counter() - start))
    return {"step": samples}


def compile_layers(mode):
    """Compiles one layer for all of a stack, and the velocity; without CUDA graphs of its own."""
    if mode == "max-autotune":
        mode = "max-autotune-no-cudagraphs"
    for owner, name in [(VisionLayer, "forward"), (LanguageLayer, "forward"), (Action, "velocity")]:
        setattr(owner, name, torch.compile(getattr(owner, name), mode=mode, dynamic=False, fullgraph=True))


def captured(function):
    """A CUDA graph of a function without arguments, as a function that replays it, and what it writes its result to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


def timed(function, repeat, sync):
    """Milliseconds of each call but the first."""
    samples = []
    for _ in range(repeat + 1):
        sync()
        start = time.perf_counter()
        function()
        sync()
        samples.append(1e3 * (time.perf_counter() - start))
    return samples[1:]


def predict_graphs(tower, project, language, action, repeat, sync):
    """Milliseconds of a graph of each stage, which reads what the one before has written, and of one of everything."""
    samples = {}
    stages = [("vision", tower), ("projector", project), ("language", language), ("action", action)]
    graphs, given = [], ()
    for name, stage in stages:
        graphs.append(captured(lambda: stage(*given)))
        replay, result = graphs[-1]
        samples[name], given = timed(replay, repeat, sync), (result,)
    replay, actions = captured(lambda: action(language(project(tower()))))
    samples["total"] = timed(replay, repeat, sync)
    if not actions.isfinite().all():
        raise SystemExit("the graph's actions are not finite")
    return samples


def predict_eager(tower, project, language, action, repeat, sync):
    """Milliseconds of each stage, waited for, and of all together."""
    samples = {}
    for run in range(repeat + 1):
        sync()
        marks = [time.perf_counter()]
        given = ()
        for stage in (tower, project, language, action):
            given = (stage(*given),)
            sync(), marks.append(time.perf_counter())
        if run:
            for name, start, end in zip(["vision", "projector", "language", "action"], marks, marks[1:]):
                samples.setdefault(name, []).append(1e3 * (end - start))
            samples.setdefault("total", []).append(1e3 * (marks[-1] - marks[0]))
    return samples


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=["plain", "lerobot"], default="plain")
    parser.add_argument("--dtype", choices=["f32", "tf32", "bf16", "f16", "lerobot"], default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--text-tokens", type=int, default=48, help="what evo1 bench's instruction has in bytes")
    parser.add_argument("--train", type=int, choices=[1, 2], help="steps of training of a stage, plain: weights in f32")
    parser.add_argument("--graph", action="store_true", help="replay CUDA graphs")
    parser.add_argument("--compile", choices=["default", "max-autotune"], help="torch.compile's mode, plain")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    is_cuda = args.device.startswith("cuda")
    if args.graph and not is_cuda:
        parser.error("--graph needs --device cuda")
    if args.impl != "plain" and (args.train or args.compile):
        parser.error("--train and --compile need --impl plain")
    if args.train and (args.graph or args.compile):
        parser.error("--train is eager")
    sync = torch.cuda.synchronize if is_cuda else lambda: None
    torch.backends.cudnn.allow_tf32 = args.dtype == "tf32"
    torch.set_float32_matmul_precision("high" if args.dtype == "tf32" else "highest")
    if args.compile:
        compile_layers(args.compile)

    types = {"bf16": (torch.bfloat16, torch.bfloat16), "f16": (torch.float16, torch.float16), "lerobot": (torch.bfloat16, torch.float32)}
    vlm_dtype, action_dtype = types.get(args.dtype, (torch.float32, torch.float32))
    if args.impl == "plain":
        with torch.device(args.device):
            vision, language, action = Vision(), Language(), Action()
        if not args.train:
            vision.to(vlm_dtype), language.to(vlm_dtype), action.to(action_dtype)
        tower, project = vision.tower, vision.project
    else:
        model = LeRobot(args.steps)
        model.vlm.to(args.device, vlm_dtype), model.head.to(args.device, action_dtype)
        model.eval()
        tower, project, language, action = model.tower, model.project, model.language, model.action

    row = sum(([9] * 12 + [2] + [IMAGE_TOKEN] * TOKENS_PER_VIEW + [3, 9] for _ in range(args.views)), []) + [9] * args.text_tokens
    ids = torch.tensor([row] * args.batch, device=args.device)
    pixels = torch.randn(args.batch * args.views, 3, VISION["image"], VISION["image"], device=args.device, dtype=vlm_dtype)
    state = torch.rand(args.batch, ACTION["dims"], device=args.device, dtype=action_dtype)
    if args.train:
        samples = train(args.train, (vision, language, action), vlm_dtype, pixels, ids, state, args.repeat, sync)
    else:
        predict = predict_graphs if args.graph else predict_eager
        # Compiled code and graphs are made without autograd's bookkeeping alone: tensors of inference mode stay in it.
        with torch.no_grad() if args.graph or args.compile else torch.inference_mode():
            samples = predict(
                lambda: tower(pixels), project, lambda visual: language(ids, visual).to(action_dtype),
                lambda fused: action(fused, state, args.steps), args.repeat, sync,
            )
    report = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "threads": torch.get_num_threads(),
        "tokens": len(row),
        "setup": vars(args),
        "milliseconds": {name: {"min": min(times), "p50": statistics.median(times)} for name, times in samples.items()},
        "peak_memory_bytes": peak_memory(),
        "device_memory_bytes": torch.cuda.max_memory_reserved() if is_cuda else None,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
