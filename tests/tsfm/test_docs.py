"""docs/methods.md names every method, option and hyperparameter there is."""

import dataclasses
from pathlib import Path

import pytest

from tsfm import catalog
from tsfm.request import HYPERPARAMETERS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()


@pytest.mark.parametrize("name", [*catalog.METHODS, *catalog.RIVALS, *HYPERPARAMETERS])
def test_name_is_documented(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("method", list(catalog.METHODS))
def test_options_stand_under_their_method(method: str) -> None:
    section = TEXT.partition(f"## {method}\n")[2].partition("\n## ")[0]
    assert section
    for option in dataclasses.fields(catalog.method(method).config):
        assert f"| `{option.name}` |" in section


def test_default_learning_rates_are_the_catalogues() -> None:
    """ "1e-3; 6e-4 on `ttm-r2`": the default, then the backbones whose family has a rate of its own."""
    for spec in catalog.METHODS.values():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{spec.name}` |"))
        shown, *others = row.rstrip(" |").rpartition("| ")[2].split("; ")
        assert (float(shown) if shown != "–" else None) == spec.learning_rate.get("*")
        named = {name.strip("`"): float(rate) for rate, _, name in (other.partition(" on ") for other in others)}
        assert {catalog.backbone(name).family: rate for name, rate in named.items()} == {
            family: rate for family, rate in spec.learning_rate.items() if family != "*"
        }
