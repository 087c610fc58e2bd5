"""The mixture that Moirai 1 answers for every point, and its quantiles without a sample.

Four components in the space of standardised values: Student-t for noise with outliers, a normal of fixed small scale
for what is nearly certain, a negative binomial for counts, a log-normal for skewed positive values. The distribution
function is exact to 2e-6 (the t's by quadrature, the counts' by summing), so that bisection finds a quantile, which is
the same every time and depends on nothing but the parameters.

Shapes: `...` is any batch of points, K = 4 components, Q quantile levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NORMAL_SCALE = 1e-3
NUM_COMPONENTS = 4
NUM_OUTPUTS = NUM_COMPONENTS + 8
"""Numbers a point: the logits of the weights, and the components' own parameters in the order of `Mixture`."""
MAX_COUNT = 128
"""Counts from here on are left out of quantiles: 128 deviations above the mean."""
COUNT_WIDTH = NORMAL_SCALE
"""A count is a bar as wide as the fixed normal, so that the distribution function has a slope everywhere."""
LARGEST_LOG = 13.8
"""exp(13.8) = 1e6 deviations: keeps a log-normal's quantiles finite."""
BISECTIONS = 26
"""Halve a bracket to 1.5e-8 of its width: what float32 can tell apart."""
LEAST_DENSITY = 1e-3
"""Between two components a slope is no less, so that a last step of Newton's stays within rounding."""
T_REACH = 6.0
"""Deviations beyond which a normal has nothing; a t of any df that is not near one has its tails within π / 2."""

_NODES, _WEIGHTS = (torch.tensor(x, dtype=torch.float32) / 2 for x in np.polynomial.legendre.leggauss(12))
_NODES = _NODES + 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Parameters [...] in scaled space, and the affine map from there to the units of the series."""

    log_weights: Tensor
    """[..., K]"""
    t_df: Tensor
    t_loc: Tensor
    t_scale: Tensor
    normal_loc: Tensor
    nb_total_count: Tensor
    nb_logits: Tensor
    ln_loc: Tensor
    ln_scale: Tensor
    location: Tensor
    """Broadcasts against [...]."""
    scale: Tensor

    @classmethod
    def of(cls, outputs: Tensor, *, location: Tensor, scale: Tensor) -> Self:
        """From the network's numbers [..., 12, p] for points [..., p]."""
        logits, rest = outputs[..., :NUM_COMPONENTS, :], outputs[..., NUM_COMPONENTS:, :]
        df, t_loc, t_scale, normal_loc, total_count, nb_logits, ln_loc, ln_scale = rest.unbind(-2)
        return cls(
            log_weights=logits.transpose(-1, -2).log_softmax(dim=-1),
            t_df=2.0 + F.softplus(df),
            t_loc=t_loc,
            t_scale=_positive(t_scale),
            normal_loc=normal_loc,
            nb_total_count=_positive(total_count),
            nb_logits=nb_logits,
            ln_loc=ln_loc,
            ln_scale=_positive(ln_scale),
            location=location,
            scale=scale,
        )

    def log_prob(self, values: Tensor) -> Tensor:
        """Log density of `values` [...] in the units of the series.

        A component without density at a value drops out. Negative binomials have one between whole numbers too, as
        the reference has it: values are standardised, so that hardly any is whole.
        """
        x = (values - self.location) / self.scale
        continuous = self._log_densities(x)
        positive = x >= 0
        count = torch.where(positive, self._log_mass(torch.where(positive, x, 0.0)), -torch.inf)
        parts = torch.stack([*continuous[:2], count, continuous[2]], dim=-1)
        return (self.log_weights + parts).logsumexp(dim=-1) - self.scale.log()

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """[Q, ...] quantiles at `levels` in the units of the series; gradients flow.

        Bisection finds them, between the smallest and the largest quantile of the components; two steps of Newton's
        from there leave the values alone and are what is differentiated.
        """
        wanted = torch.tensor(levels, device=self.t_loc.device).view(-1, *[1] * self.t_loc.ndim)
        counts = self._count_distribution()
        whole_t = self._t_integral(self._t_limit())
        with torch.no_grad():
            low, high = self._bracket(wanted, counts)
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                below = self._cdf(middle, counts, whole_t) < wanted
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            x = (low + high) / 2
        for _ in range(2):
            slope = self._density(x, counts).clamp(min=LEAST_DENSITY)
            x = x - (self._cdf(x, counts, whole_t) - wanted) / slope
        return (x * self.scale + self.location).sort(dim=0).values

    def _log_densities(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the components with a density, at scaled `x`: t, normal, log-normal."""
        half = self.t_df / 2
        t = (
            torch.lgamma(half + 0.5)
            - torch.lgamma(half)
            - 0.5 * (math.pi * self.t_df).log()
            - self.t_scale.log()
            - (half + 0.5) * (((x - self.t_loc) / self.t_scale).square() / self.t_df).log1p()
        )
        normal = _log_normal_density((x - self.normal_loc) / NORMAL_SCALE) - math.log(NORMAL_SCALE)
        log_x = torch.where(x > 0, x, 1.0).log()
        skewed = _log_normal_density((log_x - self.ln_loc) / self.ln_scale) - self.ln_scale.log() - log_x
        return t, normal, torch.where(x > 0, skewed, -torch.inf)

    def _log_mass(self, x: Tensor) -> Tensor:
        """Of the negative binomial at `x` ≥ 0, whole or not."""
        total = self.nb_total_count
        choices = torch.lgamma(total + x) - torch.lgamma(total) - torch.lgamma(x + 1.0)
        return choices + total * F.logsigmoid(-self.nb_logits) + x * F.logsigmoid(self.nb_logits)

    def _count_distribution(self) -> Tensor:
        """[..., 129] probability that a count is less than 0, 1, …, 128."""
        counts = torch.arange(MAX_COUNT, device=self.t_loc.device).view(-1, *[1] * self.t_loc.ndim)
        mass = self._log_mass(counts).softmax(dim=0).movedim(0, -1)
        return F.pad(mass.cumsum(dim=-1), (1, 0))

    def _cdf(self, x: Tensor, counts: Tensor, whole_t: Tensor) -> Tensor:
        """Distribution function at scaled `x` [Q, ...]."""
        weights = self.log_weights.exp().unbind(-1)
        angle = torch.atan((x - self.t_loc) / (self.t_scale * self.t_df.sqrt()))
        limit = self._t_limit()
        t = 0.5 + 0.5 * self._t_integral(torch.minimum(torch.maximum(angle, -limit), limit)) / whole_t
        normal = torch.special.ndtr((x - self.normal_loc) / NORMAL_SCALE)
        before, at, share = self._bar(x, counts)
        skewed = torch.special.ndtr((torch.where(x > 0, x, 1.0).log() - self.ln_loc) / self.ln_scale)
        skewed = torch.where(x > 0, skewed, 0.0)
        parts = (t, normal, before + (at - before) * share.clamp(0, 1), skewed)
        return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0)

    def _density(self, x: Tensor, counts: Tensor) -> Tensor:
        """Slope of `_cdf`."""
        weights = self.log_weights.exp().unbind(-1)
        t, normal, skewed = (part.exp() for part in self._log_densities(x))
        before, at, share = self._bar(x, counts)
        count = torch.where((share > 0) & (share < 1), (at - before) / COUNT_WIDTH, 0.0)
        return torch.stack([w * part for w, part in zip(weights, (t, normal, count, skewed), strict=True)]).sum(0)

    def _bar(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the count nearest to `x`: the probability of less, of no more, and how far `x` is into its bar."""
        nearest = x.detach().round().clamp(0, MAX_COUNT - 1).long()
        table = counts.expand(*nearest.shape, -1)
        before, at = (table.gather(-1, nearest[..., None] + more).squeeze(-1) for more in (0, 1))
        return before, at, (x - nearest) / COUNT_WIDTH + 0.5

    def _t_limit(self) -> Tensor:
        return (T_REACH / self.t_df.sqrt()).clamp(max=math.pi / 2)

    def _t_integral(self, angle: Tensor) -> Tensor:
        """∫ cos(φ)^(df − 1) from 0 to `angle`: with x = √df · tan(φ) the density of a t, but for its constant."""
        nodes, weights = _NODES.to(angle.device), _WEIGHTS.to(angle.device)
        sine = (angle[..., None] * nodes).sin()
        powers = (0.5 * (self.t_df - 1.0)[..., None] * (-sine.square()).log1p()).exp()
        return (powers @ weights) * angle

    def _bracket(self, wanted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled values [Q, ...] between which the mixture's quantile lies: the extremes of the components' own ones.

        Of the t, which has no closed form, those of its heaviest tails: df = 2.
        """
        normal = torch.special.ndtri(wanted)
        t = (2 * wanted - 1) / (2 * wanted * (1 - wanted)).sqrt() * self.t_scale
        skewed = (self.ln_loc + self.ln_scale * normal).clamp(max=LARGEST_LOG).exp()
        count = (counts[..., 1:] < wanted[..., None]).sum(-1).clamp(max=MAX_COUNT - 1).to(t.dtype)
        sure = self.normal_loc + NORMAL_SCALE * normal
        low = (self.t_loc + t.clamp(max=0), sure, count - COUNT_WIDTH, skewed)
        high = (self.t_loc + t.clamp(min=0), sure, count + COUNT_WIDTH, skewed)
        return torch.stack(low).amin(0), torch.stack(high).amax(0)


def _positive(x: Tensor) -> Tensor:
    return F.softplus(x).clamp(min=torch.finfo(torch.float32).eps)


def _log_normal_density(z: Tensor) -> Tensor:
    return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
