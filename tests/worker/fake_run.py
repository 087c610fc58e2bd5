"""A stand-in for `worker.run_job` that speaks the same lines without torch; the job's request says how it behaves.

`{"behaviour": "succeed" | "judge" | "obey" | "ignore" | "error" | "retry" | "crash" | "chatty" | "print" | "litter"}`
"""

import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

from worker.protocol import Assignment, message

ordered = threading.Event()
heard: list[str] = []


def listen() -> None:
    for line in sys.stdin:
        heard.append(line.strip())
        ordered.set()
    os._exit(70)


def say(kind: str, **content: Any) -> None:
    sys.stdout.write(message(kind, content))
    sys.stdout.flush()


def progress(step: int, **more: Any) -> None:
    say("progress", phase="training", step=step, total_steps=100, fraction=step / 100, eta_seconds=1.0, **more)


def wait_for_order() -> None:
    step = 0
    while not ordered.is_set():
        step += 1
        progress(step)
        time.sleep(0.05)


def result(digest: str = "sha256:" + "a" * 64) -> None:
    verdict = {"promoted": False, "fallback": "zero_shot", "reason": "Zero-shot was not beaten."}
    found = {"digest": digest, "manifest": {}, "verdict": verdict}
    say("result", result=found, files={"model.safetensors": "b" * 64}, result_files=[], refit=None)


def main() -> None:
    behaviour = Assignment.parse(sys.stdin.readline()).request["behaviour"]
    threading.Thread(target=listen, daemon=True).start()
    match behaviour:
        case "succeed":
            progress(1, message="Training began.", metrics={"mase": 0.5, "step": 1}, validation_loss=0.5)
            time.sleep(0.2)
            result()
        case "judge":
            say("judging", test_sha256="sha256:rows")
            ordered.wait(20)
            progress(1, message=f"Heard {heard}.")
            result()
        case "obey":
            wait_for_order()
            say("stopped")
        case "slow":
            wait_for_order()
            result()
        case "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            wait_for_order()
            time.sleep(60)
        case "error" | "retry":
            say("error", code="non_finite", message="step 3", param=None, details=None, retry=behaviour == "retry")
            sys.exit(1)
        case "crash":
            progress(1)
            os.kill(os.getpid(), signal.SIGKILL)
        case "litter":
            result(tempfile.mkdtemp(prefix="measure-"))
            wait_for_order()
        case "garbage":
            sys.stdout.write('{"type": "progress", "st')
            sys.exit(3)


main()
