"""From a CSV to a forecast: python examples/openai_client.py URL KEY_FILE CSV PREDICTION_LENGTH."""

import sys
import time
from pathlib import Path

from openai import OpenAI


def main(url: str, key_file: str, csv: str, prediction_length: str) -> None:
    key = Path(key_file).read_text().strip()
    with OpenAI(api_key=key, base_url=f"{url}/v1") as client:
        file = client.files.create(file=Path(csv), purpose="fine-tune")
        client.files.wait_for_processing(file.id)  # large files are read by a worker; this one is read already
        job = client.fine_tuning.jobs.create(
            model="temper-tiny",
            training_file=file.id,
            # A short job for an example; without `method` the defaults are good.
            method={"type": "sff", "sff": {"hyperparameters": {"n_epochs": 3, "learning_rate_multiplier": 3}}},
            suffix="example",
            extra_body={"prediction_length": int(prediction_length)},
        )
        while job.status not in {"succeeded", "failed", "cancelled"}:
            time.sleep(1.0)
            job = client.fine_tuning.jobs.retrieve(job.id)
        for event in reversed(list(client.fine_tuning.jobs.list_events(job.id))):
            sys.stderr.write(f"{event.level} {event.message}\n")
        if job.status != "succeeded":
            sys.exit(f"{job.id} {job.status}: {job.error}")
        sys.stderr.write(job.verdict["reason"] + "\n")
        asked = {"model": job.fine_tuned_model, "levels": [80]}
        answer = client.post("/forecast", cast_to=object, body=asked)
    for forecast in answer["forecasts"]:
        interval = forecast["intervals"]["80"]
        columns = zip(forecast["timestamps"], forecast["mean"], interval["lo"], interval["hi"], strict=True)
        for timestamp, mean, low, high in columns:
            sys.stdout.write(f"{forecast['item_id']},{timestamp},{mean:.1f},{low:.1f},{high:.1f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
