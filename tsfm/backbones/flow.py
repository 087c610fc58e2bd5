"""Flow matching under a hidden state: the head of Sundial, which samples whole futures.

A network is shown a mixture t·future + (1 - t)·noise and says the future. Training draws t and noise; sampling walks
from noise to a future in equal steps of t. Names of parameters are those of `thuml/sundial-base-128m`.

Shapes: B windows, D width, L steps of a future, M samples, Q quantile levels. NaN means not known.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TIME_FEATURES = 256
TIME_SCALE = 1_000.0
"""The network is called with a thousand times the flow's time."""
MOST_CONDITIONS = 256
"""Pairs of step and window whose modulations stand in memory at once while sampling."""


class TimeEmbedding(nn.Module):
    """Flow times in [0, 1] of any shape to [..., D]: cosines and then sines at 128 frequencies, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        half = TIME_FEATURES // 2
        exponent = torch.arange(half, device=time.device, dtype=torch.float32) / half
        angle = TIME_SCALE * time.float()[..., None] * torch.exp(-math.log(10_000.0) * exponent)
        out: Tensor = self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))
        return out


class FlowBlock(nn.Module):
    """`x + gate · mlp(norm(x) · (1 + scale) + shift)`, all three from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate = modulation.chunk(3, dim=-1)
        out: Tensor = x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)
        return out


class FlowOutput(nn.Module):
    """`linear(norm(x) · (1 + scale) + shift)`, the norm without weights of its own."""

    def __init__(self, width: int, horizon: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, horizon)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, dim=-1)
        out: Tensor = self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return out


class FlowNet(nn.Module):
    """Of a future mixed with noise [..., L], at a time and under a condition, the clean future [..., L].

    Time and hidden state act through their sum alone, so that samples of one window share all that follows from it.
    """

    def __init__(self, width: int, horizon: int, *, depth: int) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(width, width)
        self.input_proj = nn.Linear(horizon, width)
        self.res_blocks = nn.ModuleList(FlowBlock(width) for _ in range(depth))
        self.final_layer = FlowOutput(width, horizon)

    def modulations(self, time: Tensor, hidden: Tensor) -> list[Tensor]:
        """What each block and the output take from `time` [...] and `hidden` [..., D], which broadcast."""
        condition = self.time_embed(time) + self.cond_embed(hidden)
        return [block.adaLN_modulation(condition) for block in (*self.res_blocks, self.final_layer)]

    def forward(self, mixed: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        x = self.input_proj(mixed)
        for block, modulation in zip(self.res_blocks, modulations, strict=False):
            x = block(x, modulation)
        out: Tensor = self.final_layer(x, modulations[-1])
        return out.float()


class FlowHead(nn.Module):
    """The published name of the network's place, its training error and its sampler."""

    def __init__(self, width: int, horizon: int, *, depth: int, num_steps: int) -> None:
        super().__init__()
        self.net = FlowNet(width, horizon, depth=depth)
        self.num_steps = num_steps

    def error(self, future: Tensor, hidden: Tensor, *, noise: Tensor, time: Tensor) -> Tensor:
        """Squared error [..., L] of what the network says of `future` [..., L], given `hidden` [..., D], with `noise`
        [..., L] in a share of 1 - `time` [...]. NaN in `future`: not known, and the error is 0.

        The mixture needs some future there all the same: what the network itself expects of noise alone, as it would
        see while sampling. (The published code mixes in whatever its caller padded with.)
        """
        known = ~future.isnan()
        if not bool(known.all()):
            with torch.no_grad():
                expected = self.net(noise, self.net.modulations(torch.zeros_like(time), hidden))
            future = torch.where(known, future, expected)
        mixed = time[..., None] * future + (1 - time[..., None]) * noise
        said = self.net(mixed, self.net.modulations(time, hidden))
        return torch.where(known, said - future, 0.0).square()

    def sample(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """Futures [B, M, L] from `noise` [B or 1, M, L], one tensor a step: from noise at the velocity that leads to
        what the network says, which is that less the *initial* noise."""
        x = noise.expand(len(hidden), -1, -1)
        times = torch.arange(self.num_steps, device=hidden.device) / self.num_steps
        for some in torch.split(times, max(1, MOST_CONDITIONS // len(hidden))):
            modulations = self.net.modulations(some[:, None, None], hidden[:, None])
            for step in range(len(some)):
                x = x + (self.net(x, [m[step] for m in modulations]) - noise) / self.num_steps
        return x


def order_statistics(samples: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles [B, Q, L] at `levels` of `samples` [B, M, L], sorted.

    On average a share of (i + 1) / (M + 1) lies below the sample of rank i, counted from 0: levels are read at those,
    on lines between samples. numpy's default reads them at i / (M - 1), which makes the bands of few samples narrow
    (72 % where 80 % are asked of 20).
    """
    ranked = samples.sort(dim=1).values
    last = samples.shape[1] - 1
    position = (torch.tensor(levels, device=samples.device) * (last + 2) - 1).clamp(0, last)
    below = position.floor().long().clamp(max=max(last - 1, 0))
    weight = (position - below)[:, None]
    return torch.lerp(ranked[:, below], ranked[:, (below + 1).clamp(max=last)], weight)
