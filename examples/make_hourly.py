"""Makes `hourly_demand.csv`: electricity demand of five plants on one four-week shift rota.

    python examples/make_hourly.py > examples/hourly_demand.csv

Synthetic, and made so that fine-tuning has something to learn: which shifts run on a day follows a rota of 28 days.
That is longer than the 512 hours of history the default backbone sees, so no model can copy it from its context; one
that has trained on the file knows which days follow which. Whether it does better is measured, not assumed.
"""

import math
import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

SEED = 28
NUM_DAYS = 24 * 7
START = datetime(2025, 1, 6)
PLANTS = {"aachen": (420.0, 0), "brno": (260.0, 5), "cork": (610.0, 11), "delft": (150.0, 17), "evora": (330.0, 22)}
"""Name → demand at full load in kW, and the day of the rota it starts on."""

OFF, EARLY, DAY, ALL = (), ((6, 14),), ((6, 14), (14, 22)), ((0, 6), (6, 14), (14, 22), (22, 24))
ROTA = (
    *(DAY, DAY, ALL, OFF, EARLY, DAY, OFF),
    *(ALL, ALL, EARLY, DAY, OFF, OFF, EARLY),
    *(DAY, EARLY, OFF, ALL, ALL, OFF, DAY),
    *(EARLY, OFF, DAY, EARLY, ALL, DAY, OFF),
)
"""The shifts of each of 28 days, as (first hour, hour after the last)."""


def hours(name: str) -> Iterator[tuple[datetime, float]]:
    level, offset = PLANTS[name]
    noise = random.Random(f"{SEED}-{name}")
    drift = 0.0
    for hour in range(24 * NUM_DAYS):
        day, clock = divmod(hour, 24)
        running = any(first <= clock < last for first, last in ROTA[(day + offset) % len(ROTA)])
        lighting = 0.06 * (1 + math.cos(2 * math.pi * (clock - 1) / 24))
        drift = 0.98 * drift + noise.gauss(0, 0.006)
        load = 0.22 + lighting + (0.58 if running else 0.0) + drift
        yield START + timedelta(hours=hour), level * max(0.0, load + noise.gauss(0, 0.02))


def lines() -> Iterator[str]:
    yield "item_id,timestamp,target"
    for name in PLANTS:
        for moment, value in hours(name):
            yield f"{name},{moment:%Y-%m-%d %H:%M},{value:.1f}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines())
