"""docs/methods.md names every method, option and hyperparameter there is."""

import dataclasses
import re
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
    """ "1e-3; 6e-4 on TTM, Timer and `temper-tiny`": the default, then families by their names or by a backbone's."""
    families = {spec.family for spec in catalog.BACKBONES.values()} | {spec.name for spec in catalog.BACKBONES.values()}
    for spec in catalog.METHODS.values():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{spec.name}` |"))
        shown, *others = row.rstrip(" |").rpartition("| ")[2].split("; ")
        assert (float(shown) if shown != "–" else None) == spec.learning_rate.get("*")
        named: dict[str, float] = {}
        for rate, _, names in (other.partition(" on ") for other in others):
            for name in re.split(", | and ", names.replace("`", "").lower()):
                assert name in families
                family = catalog.BACKBONES[name].family if name in catalog.BACKBONES else name
                assert family not in named
                named[family] = float(rate)
        assert named == {family: rate for family, rate in spec.learning_rate.items() if family != "*"}
