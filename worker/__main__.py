"""`python -m worker [--queues train,default,measure]`: one worker, one thing at a time. SIGTERM gives a job back."""

import argparse
import logging
import sys

from app.settings import Settings
from app.telemetry import configure_logging
from worker.celery_app import DEFAULT, MEASURING, TRAIN, make_celery
from worker.lifetime import Lifetime
from worker.supervise import RUN_COMMAND


def main(arguments: list[str], *, command: tuple[str, ...] = RUN_COMMAND) -> int:
    """`command` starts a run; another one than the default is for tests."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument(
        "--queues", default=f"{TRAIN},{DEFAULT},{MEASURING}", help="comma-separated; default: %(default)s"
    )
    queues = parser.parse_args(arguments).queues
    settings = Settings()
    settings.make_directories()
    configure_logging(settings.log_level)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    celery = make_celery(settings)
    Lifetime(settings, command=command)
    celery.worker_main(
        [
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            f"--queues={queues}",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--optimization=fair",
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
