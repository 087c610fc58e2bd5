"""The families of synthetic series: each function draws `rows` series of `length` steps, float32 [rows, length].

Everything is vectorised over rows; recursions loop over time only. Values are of order one but not normalised.
Families follow the usual synthetic priors of the field (KernelSynth of Chronos, ForecastPFN, TempoPFN) and the
series that the product meets: sensors and demand with daily and weekly shape, sales counts, prices.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rng = np.random.Generator

DAYS: tuple[tuple[int, int, float], ...] = (
    # steps in a cycle, cycles in the longer cycle (0: none), weight
    (24, 7, 0.34),
    (96, 7, 0.14),
    (144, 7, 0.09),
    (48, 7, 0.11),
    (7, 52, 0.08),
    (12, 0, 0.10),
    (52, 0, 0.04),
    (4, 0, 0.04),
    (5, 50, 0.02),
    (30, 0, 0.01),
    (60, 24, 0.02),
    (288, 0, 0.02),
    (365, 0, 0.01),
    (6, 0, 0.01),
    (28, 0, 0.01),
)


def uniform(rng: Rng, low: float, high: float, rows: int) -> Array:
    """One number per row, as a column [rows, 1]."""
    return rng.uniform(low, high, (rows, 1)).astype(np.float32)


def log_uniform(rng: Rng, low: float, high: float, rows: int) -> Array:
    return np.exp(uniform(rng, float(np.log(low)), float(np.log(high)), rows))


def chance(rng: Rng, probability: float, rows: int) -> Array:
    """1.0 with the given probability, else 0.0, as a column."""
    return (rng.random((rows, 1)) < probability).astype(np.float32)


def normal(rng: Rng, rows: int, length: int) -> Array:
    return rng.standard_normal((rows, length), dtype=np.float32)


def _float32(values: Any) -> Array:
    """numpy's stubs lose the type in mixed arithmetic; the generators compute in float64 where a draw is one."""
    return np.asarray(values, dtype=np.float32)


def heavy(rng: Rng, rows: int, length: int) -> Array:
    """Unit-variance-like noise: Gaussian rows, and rows of Student t with 3 to 10 degrees of freedom."""
    noise = normal(rng, rows, length)
    freedom = rng.uniform(3, 10, (rows, 1))
    # Wilson-Hilferty: a chi-square is nearly a cubed normal, ten times cheaper than a gamma draw.
    c = 2 / (9 * freedom)
    chi = freedom * np.maximum(1 - c + normal(rng, rows, length) * np.sqrt(c), 0.15) ** 3
    student = noise * np.sqrt((freedom - 2) / chi)
    return np.where(rng.random((rows, 1)) < 0.4, student, noise).astype(np.float32)


def autoregress(shocks: Array, phi: Array) -> Array:
    """x[t] = phi x[t-1] + shock[t], started from its stationary law; phi [rows, 1] in [0, 1)."""
    out = shocks.T.copy()
    weight = phi[:, 0]
    out[0] /= np.sqrt(np.maximum(1 - weight**2, 1e-4))
    for t in range(1, len(out)):
        out[t] += weight * out[t - 1]
    return np.ascontiguousarray(out.T)


def autoregress_unit(rng: Rng, rows: int, length: int, phi: Array) -> Array:
    """AR(1) of unit variance."""
    return autoregress(heavy(rng, rows, length) * np.sqrt(1 - phi**2), phi)


def slow(rng: Rng, rows: int, length: int, scale: Array) -> Array:
    """AR(1) of unit variance that forgets over `scale` steps."""
    return autoregress_unit(rng, rows, length, np.exp(-1 / np.maximum(scale, 0.2)))


def stochastic_trend(rng: Rng, rows: int, length: int) -> Array:
    """Unit roots: random walk, with drift, ARIMA(p,1,q), log walk with stochastic volatility, local linear trend."""
    shocks = heavy(rng, rows, length)
    kind = rng.choice(5, rows, p=(0.34, 0.14, 0.22, 0.2, 0.1))[:, None]
    volatility = np.exp(log_uniform(rng, 0.1, 1.0, rows) * slow(rng, rows, length, log_uniform(rng, 5, 200, rows)))
    shocks = np.where((kind == 3) | (rng.random((rows, 1)) < 0.2), shocks * volatility, shocks)
    # ARIMA(p,1,q): increments with short memory of either sign; the moving average is one lag.
    phi = np.where(kind == 2, uniform(rng, -0.5, 0.7, rows), 0).astype(np.float32)
    theta = np.where(kind == 2, uniform(rng, -0.6, 0.6, rows), 0).astype(np.float32)
    steps = autoregress(shocks, phi)
    steps[:, 1:] += theta * shocks[:, :-1]
    steps += np.where(kind == 1, uniform(rng, -0.25, 0.25, rows), 0).astype(np.float32)
    wander = log_uniform(rng, 0.005, 0.05, rows) * np.cumsum(normal(rng, rows, length), axis=1)
    steps += np.where(kind == 4, wander, 0).astype(np.float32)
    walk = np.cumsum(steps, axis=1)
    noise = np.where(rng.random((rows, 1)) < 0.2, log_uniform(rng, 0.1, 3, rows), 0)
    walk += (noise * normal(rng, rows, length)).astype(np.float32)
    sigma = log_uniform(rng, 0.002, 0.05, rows)
    return np.where(kind == 3, np.exp(np.clip(sigma * walk, -8, 8)) * 10, walk).astype(np.float32)


def pure_noise(rng: Rng, rows: int, length: int) -> Array:
    """Nothing to learn: white noise, skewed noise, constants, constants with a rare blip."""
    kind = rng.choice(4, rows, p=(0.5, 0.2, 0.2, 0.1))[:, None]
    noise = heavy(rng, rows, length)
    skewed = np.exp(noise.clip(-5, 5) * uniform(rng, 0.2, 1.0, rows))
    constant = np.broadcast_to(uniform(rng, -5, 5, rows), noise.shape)
    blip = constant + (rng.random(noise.shape) < 0.01) * uniform(rng, -2, 2, rows)
    return np.select([kind == 0, kind == 1, kind == 2], [noise, skewed, constant], blip).astype(np.float32)


def profile(rng: Rng, rows: int, period: Array, phase: Array) -> Array:
    """A cycle's shape at `phase` [rows, length] in turns: harmonics, bumps, daylight, saw or block; unit spread."""
    kind = rng.choice(5, rows, p=(0.4, 0.3, 0.14, 0.08, 0.08))
    out = np.zeros_like(phase)
    turn = phase * np.float32(2 * np.pi)
    for family in range(5):
        at = np.flatnonzero(kind == family)
        if not len(at):
            continue
        n, t, p = len(at), turn[at], phase[at] % 1
        if family == 0:
            decay = uniform(rng, 0.3, 2.0, n)
            for k in range(1, 6):
                allowed = (period[at] > 2 * k) & ((k == 1) | (rng.random((n, 1)) < 0.6))
                size = rng.standard_normal((n, 1)) * np.exp(-decay * (k - 1)) + (k == 1)
                out[at] += allowed * size * np.cos(k * t + uniform(rng, 0, 6.2832, n))
        elif family == 1:
            for _ in range(3):
                width = log_uniform(rng, 0.5, 12, n)
                centre = uniform(rng, 0, 6.2832, n)
                out[at] += rng.standard_normal((n, 1)) * np.exp(width * (np.cos(t - centre) - 1))
        elif family == 2:
            daylight = np.cos(t - uniform(rng, 0, 6.2832, n)) - uniform(rng, -0.6, 0.5, n)
            out[at] = np.maximum(daylight, 0) ** uniform(rng, 0.6, 1.6, n)
        elif family == 3:
            out[at] = (p + uniform(rng, 0, 1, n)) % 1
        else:
            start, width = uniform(rng, 0, 1, n), uniform(rng, 0.1, 0.6, n)
            out[at] = ((p + start) % 1 < width).astype(np.float32)
    out -= out.mean(1, keepdims=True)
    return _float32(out / (out.std(1, keepdims=True) + 1e-3))


def _longer_cycle(rng: Rng, rows: int, cycle: NDArray[np.int64], num_cycles: NDArray[np.int64]) -> Array:
    """Factor of each step from the longer cycle (day of week, week of year), [rows, length], about zero."""
    many = np.maximum(num_cycles, 1)
    day = (cycle % many).astype(np.int64)
    table = rng.standard_normal((rows, 8)).astype(np.float32)
    weekend = (np.arange(8) % 7 >= 5) * rng.choice([-1.0, 1.0], (rows, 1), p=[0.8, 0.2]) * 2
    table = np.where(rng.random((rows, 1)) < 0.65, weekend + 0.25 * table, table).astype(np.float32)
    weekly = np.take_along_axis(table, np.minimum(day, 7), axis=1)
    smooth = np.sin(2 * np.pi * (cycle / many + rng.random((rows, 1))))
    return np.where(num_cycles == 7, weekly, np.where(num_cycles > 7, smooth, 0)).astype(np.float32)


def periodic(rng: Rng, rows: int, length: int) -> Array:
    """Sensors and demand: daily shape, day-of-week effect, wandering level, amplitude that varies, coloured noise."""
    weights = np.array([w for _, _, w in DAYS])
    chosen = rng.choice(len(DAYS), rows, p=weights / weights.sum())
    period = np.array([p for p, _, _ in DAYS])[chosen][:, None]
    many = np.array([n for _, n, _ in DAYS])[chosen][:, None]
    free = rng.random((rows, 1)) < 0.12
    period = np.where(free, np.exp(rng.uniform(np.log(3), np.log(320), (rows, 1))).round(), period).astype(np.int64)
    step = np.arange(length) + rng.integers(0, 10_000, (rows, 1))
    cycle = step // period
    phase = (step / period).astype(np.float32)
    span = period.astype(np.float32)
    shape = profile(rng, rows, span, phase)
    second = rng.random((rows, 1)) < 0.3
    other = profile(rng, rows, span, phase)
    longer = _longer_cycle(rng, rows, cycle, many)
    longer *= chance(rng, 0.6, rows) * log_uniform(rng, 0.1, 1.5, rows)
    # Weekends may have another shape, not only another level.
    shape = np.where(second & (longer < -0.3), other, shape)
    amplitude = log_uniform(rng, 0.15, 3, rows) * chance(rng, 0.93, rows)
    # A third of the rows are as regular as electricity demand or monthly sales: little but season and trend.
    wild = np.where(rng.random((rows, 1)) < 0.35, log_uniform(rng, 0.03, 0.5, rows), 1).astype(np.float32)
    vary = chance(rng, 0.7, rows) * log_uniform(rng, 0.05, 0.6, rows) * wild
    envelope = np.exp(vary * slow(rng, rows, length, span * log_uniform(rng, 0.7, 20, rows)))
    season = amplitude * shape * envelope * np.where(rng.random((rows, 1)) < 0.5, np.exp(0.4 * longer), 1)
    level = log_uniform(rng, 0.05, 2.5, rows) * slow(rng, rows, length, span * log_uniform(rng, 0.5, 30, rows))
    walk = chance(rng, 0.35, rows) * log_uniform(rng, 0.2, 3, rows) / np.sqrt(length)
    level += walk * np.cumsum(normal(rng, rows, length), axis=1)
    level *= wild
    level += trend(rng, rows, length) * chance(rng, 0.4, rows)
    noise = log_uniform(rng, 0.02, 1.2, rows) * slow(rng, rows, length, log_uniform(rng, 0.3, 20, rows))
    noise += chance(rng, 0.5, rows) * log_uniform(rng, 0.01, 0.5, rows) * heavy(rng, rows, length)
    noise *= wild
    louder = np.exp(chance(rng, 0.3, rows) * 0.5 * np.clip(season, -3, 3))
    total = season + longer * amplitude.clip(0.3) * 0.7 + level + noise * louder
    grow = log_uniform(rng, 0.05, 0.6, rows)
    total = np.where(rng.random((rows, 1)) < 0.22, np.exp(np.clip(grow * total, -6, 6)) / grow, total)
    floor = np.quantile(total, rng.uniform(0.05, 0.5), axis=1, keepdims=True)
    return _float32(np.where(rng.random((rows, 1)) < 0.06, np.maximum(total, floor), total))


def trend(rng: Rng, rows: int, length: int) -> Array:
    """Straight, broken, saturating or exponential trends of random strength, [rows, length]."""
    t = np.linspace(0, 1, length, dtype=np.float32)[None, :]
    kind = rng.integers(0, 4, rows)[:, None]
    size = rng.standard_normal((rows, 1)) * 2
    knee = uniform(rng, 0.1, 0.9, rows)
    broken = t + rng.standard_normal((rows, 1)) * 2 * np.maximum(t - knee, 0)
    logistic = 1 / (1 + np.exp(-(t - knee) * log_uniform(rng, 4, 40, rows)))
    rate = uniform(rng, 0.5, 3, rows)
    growth = np.expm1(rate * t) / np.expm1(rate)
    return _float32(size * np.select([kind == 0, kind == 1, kind == 2], [t + 0 * knee, broken, logistic], growth))


def gaussian_process(rng: Rng, rows: int, length: int) -> Array:
    """Draws of stationary Gaussian processes whose kernels are random sums and products (KernelSynth, by FFT).

    The kernel is built over lags and its circulant spectrum is sampled, which costs two FFTs instead of a Cholesky
    factor of `length` squared; negative rounding in the spectrum is cut.
    """
    size = 2 * length
    lag = np.minimum(np.arange(size), size - np.arange(size)).astype(np.float32)[None, :]
    periods = np.array([4, 7, 12, 24, 30, 48, 52, 60, 96, 144, 168, 288, 336], dtype=np.float32)
    kernel: Array | None = None
    for _ in range(4):
        scale = log_uniform(rng, 2, 400, rows)
        period = rng.choice(periods, (rows, 1))
        distance = lag / scale
        kind = rng.choice(5, rows, p=(0.2, 0.42, 0.13, 0.15, 0.1))[:, None]
        # The periodic kernel is damped a little: phases drift, and the circulant stays nearly positive.
        wave = np.sin(np.pi * lag / period) / log_uniform(rng, 0.4, 2, rows)
        choices = [np.exp(-0.5 * distance**2), np.exp(-2 * wave**2 - 0.5 * (lag / (4 * length)) ** 2)]
        choices += [np.exp(-distance), 1 / (1 + distance**2)]
        part = np.select([kind == k for k in range(4)], choices, (lag == 0).astype(np.float32)).astype(np.float32)
        part *= log_uniform(rng, 0.2, 2, rows)
        if kernel is None:
            kernel = part
            continue
        action = rng.choice(3, rows, p=(0.4, 0.25, 0.35))[:, None]
        kernel = np.select([action == 0, action == 1], [kernel + part, kernel * part], kernel)
    assert kernel is not None
    spectrum = np.maximum(np.fft.rfft(kernel, axis=1).real, 0)
    white = np.fft.rfft(normal(rng, rows, size), axis=1)
    out = np.fft.irfft(white * np.sqrt(spectrum), n=size, axis=1)[:, :length]
    out += trend(rng, rows, length) * chance(rng, 0.3, rows)
    return _float32(out + log_uniform(rng, 0.005, 0.3, rows) * normal(rng, rows, length))


def counts(rng: Rng, rows: int, length: int) -> Array:
    """Sales-like counts: intermittent demand, and Poisson around a periodic or wandering rate."""
    base = periodic(rng, rows, length)
    base = (base - base.mean(1, keepdims=True)) / (base.std(1, keepdims=True) + 1e-6)
    rate = np.exp(np.clip(base * uniform(rng, 0.1, 0.9, rows) + uniform(rng, -1.0, 4, rows), -8, 8))
    poisson = rng.poisson(np.minimum(rate, 1e4)).astype(np.float32)
    sold = rng.random(rate.shape) < uniform(rng, 0.02, 0.5, rows)
    sparse = sold * (1 + rng.poisson(uniform(rng, 0, 4, rows), rate.shape))
    return _float32(np.where(rng.random((rows, 1)) < 0.4, sparse, poisson))


def oscillator(rng: Rng, rows: int, length: int) -> Array:
    """AR(2) with complex roots: cycles whose phase wanders, as in sunspots or machines; some are distorted."""
    period = log_uniform(rng, 4, 160, rows)
    damping = 1 - log_uniform(rng, 0.002, 0.1, rows)
    a = (2 * damping * np.cos(2 * np.pi / period))[:, 0]
    b = (damping**2)[:, 0]
    warm = 100
    out = heavy(rng, rows, length + warm).T.copy()
    for t in range(2, len(out)):
        out[t] += a * out[t - 1] - b * out[t - 2]
    series = out[warm:].T
    series = series / (series.std(1, keepdims=True) + 1e-6)
    bent = np.where(rng.random((rows, 1)) < 0.4, np.exp(0.6 * series), series)
    return _float32(bent + log_uniform(rng, 0.01, 0.3, rows) * normal(rng, rows, length))


def regimes(rng: Rng, rows: int, length: int) -> Array:
    """Levels held between random switches (machines, thermostats), with noise and sometimes a ramp."""
    hold = log_uniform(rng, 0.004, 0.1, rows)
    jump = rng.random((rows, length)) < hold
    state = np.cumsum(jump, axis=1)
    table = rng.standard_normal((rows, 4)).astype(np.float32)
    fresh = np.take_along_axis(normal(rng, rows, length), np.minimum(state, length - 1), axis=1)
    level = np.where(rng.random((rows, 1)) < 0.5, np.take_along_axis(table, state % 4, axis=1), fresh)
    return _float32(level + log_uniform(rng, 0.01, 0.5, rows) * normal(rng, rows, length))
