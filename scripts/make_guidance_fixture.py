"""Real-time chunking in plain PyTorch, on the action expert of `fixtures/tiny-lerobot`.

    python scripts/make_guidance_fixture.py          # writes fixtures/guidance/guidance.safetensors

Needs torch and safetensors. Where LeRobot is installed, the identity method is also compared with its own RTCProcessor.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEPS, DELAY, EXECUTION_HORIZON, LEFT, MAX_WEIGHT = 8, 1, 4, 3, 10.0
HEADS = 4
SCHEDULES = ["linear", "exp", "ones", "zeros"]

weights = load_file(FIXTURES / "tiny-lerobot/model.safetensors")
inputs = load_file(FIXTURES / "tiny-lerobot/inference.safetensors")
W = {k.removeprefix("model.action_head."): v for k, v in weights.items() if k.startswith("model.action_head.")}
CONTEXT, VALID = inputs["head.context"], inputs["head.context_valid"].bool()
NOISE, MASK = inputs["in.noise"], inputs["in.action_mask"].float()
BATCH, HORIZON, WIDTH = NOISE.shape


def linear(name, x):
    return F.linear(x, W[name + ".weight"], W[name + ".bias"])


def norm(name, x):
    return F.layer_norm(x, x.shape[-1:], W[name + ".weight"], W[name + ".bias"], 1e-5)


def attention(name, x):
    embed = x.shape[-1]
    weight, bias = W[name + ".in_proj_weight"].chunk(3), W[name + ".in_proj_bias"].chunk(3)
    q, k, v = (F.linear(s, w, b) for s, w, b in zip((x, CONTEXT, CONTEXT), weight, bias))
    q, k, v = (t.view(BATCH, -1, HEADS, embed // HEADS).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(embed // HEADS)
    scores = scores.masked_fill(~VALID[:, None, None, :], -torch.inf)
    return linear(name + ".out_proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(BATCH, -1, embed))


def velocity(x, index):
    """The velocity at noisy actions and a row of the time table, masked as LeRobot masks it."""
    x = F.relu(linear("action_encoder.W1.linear", x * MASK)) + W["action_encoder.pos_encoding.pe"][:, :HORIZON]
    x = linear("action_encoder.W3.linear", F.relu(linear("action_encoder.W2.linear", x)))
    time = W["time_pos_enc.pe"][:, index]
    blocks = 1 + max(int(k.split(".")[1]) for k in W if k.startswith("transformer_blocks."))
    for block in range(blocks):
        name = f"transformer_blocks.{block}"
        x = x + attention(name + ".attn", norm(name + ".norm1", x))
        hidden = norm(name + ".norm2", x) + time[:, None]
        x = x + linear(name + ".ff.2", F.gelu(linear(name + ".ff.0", hidden)))
    pooled = linear("seq_pool_proj", norm("norm_out", x).reshape(BATCH, -1))
    out = linear("mlp_head.fc2.linear", F.relu(linear("mlp_head.fc1.linear", pooled)))
    return out.view(BATCH, HORIZON, WIDTH) * MASK


def step_weights(schedule):
    """w of each step: 1 up to the delay, then falling to 0 at the end of what is left."""
    end = min(EXECUTION_HORIZON, LEFT)
    start = min(DELAY, end)
    fall = torch.linspace(1, 0, end - start + 2)[1:-1]
    middle = {"linear": fall, "exp": fall * torch.expm1(fall) / (math.e - 1), "ones": torch.ones_like(fall), "zeros": torch.zeros_like(fall)}
    return torch.cat([torch.ones(start), middle[schedule], torch.zeros(HORIZON - end)])


def sample(method, schedule, previous):
    target = torch.zeros(BATCH, HORIZON, WIDTH)
    target[:, :LEFT] = previous
    w = step_weights(schedule)[None, :, None]
    x = NOISE * MASK
    for step in range(STEPS):
        tau = step / STEPS
        index = min(int(tau * 999), 999)
        point = x.clone().requires_grad_(True)
        v = velocity(point, index)
        end = point + (1 - tau) * v
        error = ((target - end) * w).detach()
        correction = error if method == "identity" else torch.autograd.grad(end, point, error)[0]
        bound = MAX_WEIGHT if tau == 0 else (1 - tau) / tau * ((1 - tau) ** 2 + tau**2) / (1 - tau) ** 2
        x = x + (v.detach() + min(MAX_WEIGHT, bound) * correction) / STEPS
    return x * MASK


def lerobot(schedule, previous):
    """The same through LeRobot's processor, which takes J as the identity."""
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    config = RTCConfig(
        prefix_attention_schedule=RTCAttentionSchedule[schedule.upper()],
        execution_horizon=EXECUTION_HORIZON,
        max_guidance_weight=MAX_WEIGHT,
    )
    processor, x = RTCProcessor(config), NOISE * MASK
    for step in range(STEPS):
        tau = step / STEPS
        index = min(int(tau * 999), 999)
        x = x - processor.denoise_step(x, previous, DELAY, 1 - tau, lambda seq: -velocity(seq, index)) / STEPS
    return x * MASK


def main():
    generator = torch.Generator().manual_seed(11)
    previous = (torch.rand(BATCH, LEFT, WIDTH, generator=generator) * 2 - 1) * MASK[:, :LEFT]
    tensors = {"previous": previous}
    for schedule in SCHEDULES:
        for method in ["identity", "jacobian"]:
            tensors[f"{method}.{schedule}"] = sample(method, schedule, previous)
        try:
            difference = (lerobot(schedule, previous) - tensors[f"identity.{schedule}"]).abs().max().item()
            print(f"{schedule}: LeRobot's identity differs by {difference:.1e}")
        except ImportError as error:
            print(f"{schedule}: not compared with LeRobot: {error}")
    free = NOISE * MASK
    for step in range(32):
        free = free + velocity(free, min(int(step / 32 * 999), 999)) / 32
    print(f"unguided: the fixture's action differs by {(free * MASK - inputs['out.action']).abs().max().item():.1e}")
    out = FIXTURES / "guidance"
    out.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "guidance.safetensors")


if __name__ == "__main__":
    main()
