"""From a CSV to a forecast with the official nixtla client: python examples/nixtla_client.py URL KEY_FILE CSV H."""

import sys
from pathlib import Path

import pandas as pd
from nixtla import NixtlaClient


def main(url: str, key_file: str, csv: str, h: str) -> None:
    client = NixtlaClient(api_key=Path(key_file).read_text().strip(), base_url=url)
    series = pd.read_csv(csv)
    times, values = series.columns[-2:]
    forecast = client.forecast(series, h=int(h), time_col=times, target_col=values, level=[80])
    sys.stdout.write(forecast.to_csv(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
