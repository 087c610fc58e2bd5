"""From a CSV to a tuned forecast with the official nixtla client: python examples/nixtla_client.py URL KEY_FILE CSV H.

The client needs its own packages: pip install nixtla.
"""

import sys
from pathlib import Path

import pandas as pd
from nixtla import NixtlaClient


def main(url: str, key_file: str, csv: str, h: str) -> None:
    client = NixtlaClient(api_key=Path(key_file).read_text().strip(), base_url=url)
    series = pd.read_csv(csv)
    columns = {"time_col": series.columns[-2], "target_col": series.columns[-1]}
    if len(series.columns) > 2:
        columns["id_col"] = series.columns[0]
    model_id = client.finetune(series, finetune_steps=20, finetune_depth=5, **columns)  # sff
    (tuned,) = [model for model in client.finetuned_models() if model.id == model_id]
    sys.stderr.write(f"{tuned.served_model}: {tuned.reason}\n")
    # By its name the service answers with what was not beaten; finetuned_model_id=model_id would ask for these weights.
    forecast = client.forecast(series, h=int(h), level=[80], model=tuned.served_model, **columns)
    sys.stdout.write(forecast.to_csv(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
