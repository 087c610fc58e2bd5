"""docs/api.md is the OpenAPI schema in words; `python docs/make_api.py` writes it."""

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.architecture.repo import ROOT


@pytest.fixture(scope="module")
def make_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_api"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(make_api: ModuleType) -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == make_api.render(make_api.schema()), "run: python docs/make_api.py"


def test_every_route_and_every_field_of_a_forecast_is_on_it(make_api: ModuleType) -> None:
    document = make_api.schema()
    page = make_api.render(document)
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`" in page
    for field in ("quantile_levels", "levels", "series", "item_ids", "timing_ms", "timestamp_format"):
        assert f"`{field}`" in page
