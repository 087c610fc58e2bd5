"""`python -m tsfm.pretrain --out DIR`: makes the shipped weights again, on one CPU thread."""

import argparse
import json
from pathlib import Path

from tsfm.pretrain.train import Plan, run


def main() -> None:
    defaults = Plan()
    parser = argparse.ArgumentParser(prog="python -m tsfm.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints; resumed if not empty")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--every", type=int, default=1000, help="steps between checkpoints")
    options = parser.parse_args()
    plan = Plan(steps=options.steps, seed=options.seed)
    run(plan, options.out, every=options.every, report=lambda entry: print(json.dumps(entry), flush=True))


if __name__ == "__main__":
    main()
