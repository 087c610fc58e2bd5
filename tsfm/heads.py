"""Small forecasting heads in place of one big linear over the flattened state (papers.md §1.4, evaluation.md §7).

All are affine maps from [B, N, D] (N tokens of width D) to [B, H] steps with a first stage that makes the state smaller
and one last linear; none has an activation, so any of them folds into one Linear(N·D, H) for export. The sizes that the
paper does not tell are reconstructed: the defaults keep the proportions of the table in papers.md for MOMENT-base.
"""

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.configs import head_kind
from tsfm.errors import ConfigError

KERNEL, STRIDE = 3, 2
"""Of the depthwise convolution over tokens."""
NARROWING = 12
"""D ÷ d', the width after a projection: 768 to 64 on MOMENT-base."""
MOST_POOLED = 8
SHARE_OF_TOKENS = 8
"""H2 keeps the last N ÷ 8 tokens: 8 of MOMENT's 64."""
LOW_RANK = 16
_BASIS_ROWS = 1_024


class SmallHead(nn.Module, ABC):
    """[B, N, D] → first stage [B, Z] → Linear(Z, H)."""

    def __init__(self, num_tokens: int, width: int, horizon: int, *, num_features: int) -> None:
        super().__init__()
        self.num_tokens, self.width, self.horizon = num_tokens, width, horizon
        self.output = nn.Linear(num_features, horizon)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """[B, N, D] → [B, Z], affine."""

    def start(self, weight: Tensor, covariance: Tensor) -> Tensor | None:
        """Sets the first stage so that it loses little of what `weight` [H, N·D] makes of inputs with `covariance`.

        Answers the last linear's weight that this implies, or None: then it is the best one for any input.
        """
        return None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.features(x))
        return out


class Projection(SmallHead):
    """H1: each token to d' features, then all of them. D·d' + d' + N·d'·H + H parameters."""

    def __init__(self, num_tokens: int, width: int, horizon: int, size: int | None) -> None:
        narrow = size or max(1, round(width / NARROWING))
        super().__init__(num_tokens, width, horizon, num_features=num_tokens * narrow)
        self.projection = nn.Linear(width, narrow)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.projection(x).flatten(1)
        return out

    def start(self, weight: Tensor, covariance: Tensor) -> None:
        _set_directions(self.projection, _token_directions(weight, covariance, self.num_tokens))


class LowRank(SmallHead):
    """H1b and `svd-k`: the flattened state to k numbers, then those. N·D·k + k + k·H + H parameters."""

    def __init__(self, num_tokens: int, width: int, horizon: int, size: int | None) -> None:
        rank = min(size or LOW_RANK, horizon)
        super().__init__(num_tokens, width, horizon, num_features=rank)
        self.projection = nn.Linear(num_tokens * width, rank)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.projection(x.flatten(1))
        return out

    def start(self, weight: Tensor, covariance: Tensor) -> Tensor:
        left = _left_directions(weight, covariance, len(self.projection.bias))
        self.projection.weight.copy_(left.T @ weight)
        nn.init.zeros_(self.projection.bias)
        return left


class Truncation(SmallHead):
    """H2: only the last n tokens, flattened. n·D·H + H parameters."""

    def __init__(self, num_tokens: int, width: int, horizon: int, size: int | None) -> None:
        self.num_kept = size or max(1, num_tokens // SHARE_OF_TOKENS)
        if self.num_kept > num_tokens:
            raise ConfigError(f"H2 keeps at most the {num_tokens} tokens there are.", param="head")
        super().__init__(num_tokens, width, horizon, num_features=self.num_kept * width)

    def features(self, x: Tensor) -> Tensor:
        return x[:, -self.num_kept :].flatten(1)


class Pooling(SmallHead):
    """H3: the mean of every k neighbouring tokens, flattened. (N·D ÷ k)·H + H parameters."""

    def __init__(self, num_tokens: int, width: int, horizon: int, size: int | None) -> None:
        self.pooled = size or max(k for k in range(1, MOST_POOLED + 1) if num_tokens % k == 0)
        if num_tokens % self.pooled:
            raise ConfigError(
                f"H3 pools equal groups: {self.pooled} does not divide {num_tokens} tokens.", param="head"
            )
        super().__init__(num_tokens, width, horizon, num_features=num_tokens // self.pooled * width)

    def features(self, x: Tensor) -> Tensor:
        groups = x.reshape(len(x), -1, self.pooled, self.width)
        return groups.mean(2).flatten(1)


class SeparableConvolution(SmallHead):
    """H4: depthwise over tokens (kernel 3, stride 2), pointwise to d', flattened.

    D·3 + D + D·d' + d' + ⌈N/2⌉·d'·H + H parameters.
    """

    def __init__(self, num_tokens: int, width: int, horizon: int, size: int | None) -> None:
        narrow = size or max(1, round(width / NARROWING))
        super().__init__(num_tokens, width, horizon, num_features=-(-num_tokens // STRIDE) * narrow)
        self.depthwise = nn.Conv1d(width, width, KERNEL, stride=STRIDE, padding=KERNEL // 2, groups=width)
        self.pointwise = nn.Linear(width, narrow)

    def features(self, x: Tensor) -> Tensor:
        mixed = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.pointwise(mixed).flatten(1)
        return out

    def start(self, weight: Tensor, covariance: Tensor) -> None:
        nn.init.constant_(self.depthwise.weight, 1 / KERNEL)
        assert self.depthwise.bias is not None
        nn.init.zeros_(self.depthwise.bias)
        _set_directions(self.pointwise, _token_directions(weight, covariance, self.num_tokens))


_KINDS: dict[str, type[Projection | LowRank | Truncation | Pooling | SeparableConvolution]] = {
    "svd": LowRank,
    "H1": Projection,
    "H1b": LowRank,
    "H2": Truncation,
    "H3": Pooling,
    "H4": SeparableConvolution,
}


class InPlaceOfLinear(nn.Module):
    """A small head where a network has its one linear: [..., N*D] → [..., H]."""

    def __init__(self, head: SmallHead) -> None:
        super().__init__()
        self.small = head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.small(x.reshape(-1, self.small.num_tokens, self.small.width))
        return out.view(*x.shape[:-1], self.small.horizon)


def build(name: str, *, num_tokens: int, width: int, horizon: int, seed: int) -> SmallHead:
    """The head `name` ("H1" … "H4", "svd-32", "H1-96": a size after the dash), initialised under `seed` alone."""
    kind, size = head_kind(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[kind](num_tokens, width, horizon, size)


def distil(head: SmallHead, linear: nn.Linear, states: Tensor, *, ridge: float = 1e-3) -> None:
    """Starts `head` near what the pretrained `linear` answers on hidden `states` [W, N·D] of train windows.

    The first stage follows the directions that matter for the linear's answers; the last linear is the ridge solution
    on the states, drawn towards the best it can do for any input (so that directions the states do not show are kept).
    For `svd` this is the truncated SVD of the linear's weight, weighted by the states' covariance. In float64.
    """
    weight, bias = linear.weight.detach().double().cpu(), linear.bias.detach().double().cpu()
    x = states.detach().double().cpu()
    centre = x.mean(0)
    x = x - centre
    covariance = x.T @ x / len(x)
    with torch.no_grad():
        implied = head.start(weight, covariance)
        stage, shift = _as_matrix(head, first_stage=True)
        implied = weight @ torch.linalg.pinv(stage) if implied is None else implied
        z = x @ stage.T
        gram = z.T @ z / len(z)
        penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        missed = x @ weight.T - z @ implied.T
        solved = implied + torch.linalg.solve(gram + penalty, z.T @ missed / len(z)).T
        head.output.weight.copy_(solved)
        # Exact at the centre of the states: W·c + b = V·(F·c + shift) + b'.
        head.output.bias.copy_(weight @ centre + bias - solved @ (stage @ centre + shift))


def regress(linear: nn.Linear, states: Tensor, answers: Tensor, *, ridge: float = 1e-3) -> None:
    """Sets `linear` to the ridge solution for `answers` [W, O] given `states` [W, D], exact at their means; in float64.

    With fewer windows than features the ridge keeps what the states do not show at zero.
    """
    x, y = states.detach().double().cpu(), answers.detach().double().cpu()
    centre, level = x.mean(0), y.mean(0)
    x = x - centre
    gram = x.T @ x / len(x)
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + penalty, x.T @ (y - level) / len(x)).T
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(level - weight @ centre)


def fold(head: SmallHead) -> nn.Linear:
    """The one Linear(N·D, H) that is the same function, computed in float64, answered in float32."""
    weight, bias = _as_matrix(head)
    folded = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)
    return folded


def _as_matrix(head: SmallHead, *, first_stage: bool = False) -> tuple[Tensor, Tensor]:
    """Weight [H, N·D] and bias [H] of a head, or of its first stage, read off at the origin and the unit vectors."""
    twin = copy.deepcopy(head).double().cpu()
    function = twin.features if first_stage else twin
    size = head.num_tokens * head.width
    columns: list[Tensor] = []
    with torch.no_grad():
        bias = function(torch.zeros(1, head.num_tokens, head.width, dtype=torch.float64))[0]
        for begin in range(0, size, _BASIS_ROWS):
            rows = torch.arange(begin, min(begin + _BASIS_ROWS, size))
            units = F.one_hot(rows, size).double().view(-1, head.num_tokens, head.width)
            columns.append(function(units) - bias)
    return torch.cat(columns).T, bias


def _left_directions(weight: Tensor, covariance: Tensor, rank: int) -> Tensor:
    """[H, k] the first left singular vectors of W·C^½: the answers' own principal directions."""
    _, vectors = torch.linalg.eigh(weight @ covariance @ weight.T)
    left: Tensor = vectors.flip(1)[:, :rank]
    return left


def _token_directions(weight: Tensor, covariance: Tensor, num_tokens: int) -> Tensor:
    """[D, D] rows in order of weight: what of a token's features the linear uses most, over all tokens and steps."""
    width = weight.shape[1] // num_tokens
    per_token = weight.view(len(weight), num_tokens, width).flatten(0, 1)
    blocks = covariance.view(num_tokens, width, num_tokens, width)
    own = torch.stack([blocks[i, :, i] for i in range(num_tokens)]).mean(0)
    values, vectors = torch.linalg.eigh(own)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    _, _, right = torch.linalg.svd(per_token @ root, full_matrices=False)
    directions: Tensor = (root @ right.T).T
    return directions


def _set_directions(linear: nn.Linear, rows: Tensor) -> None:
    """An orthonormal frame of the first of `rows`, without a bias."""
    linear.weight.copy_(torch.linalg.qr(rows[: linear.out_features].T).Q.T)
    nn.init.zeros_(linear.bias)
