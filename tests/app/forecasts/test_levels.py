import pytest

from app.errors import ApiError
from app.forecasts.levels import UNITS, parse_levels


def test_a_quantile_is_labelled_as_it_was_asked() -> None:
    found = parse_levels([0.57, 0.1, 0.025, 0.999], None)
    assert [label for label, _ in found.quantiles] == ["0.57", "0.1", "0.025", "0.999"]
    assert found.floats == (0.025, 0.1, 0.57, 0.999)


def test_every_per_mille_is_exact() -> None:
    for k in range(1, 1000):
        found = parse_levels([k / 1000], None)
        assert found.units == (k * UNITS // 1000,)
        assert float(found.quantiles[0][0]) == k / 1000


def test_a_level_is_a_central_interval() -> None:
    found = parse_levels(None, [80, 95.5, 99.9])
    assert [(one.label, one.lo / UNITS, one.hi / UNITS) for one in found.intervals] == [
        ("80", 0.1, 0.9),
        ("95.5", 0.0225, 0.9775),
        ("99.9", 0.0005, 0.9995),
    ]
    assert found.quantiles == ()


def test_duplicates_are_one_and_zero_is_the_median() -> None:
    found = parse_levels([0.5, 0.5], [80, 80.0, 0])
    assert [one.label for one in found.intervals] == ["80", "0"]
    assert found.units == (UNITS // 10, UNITS // 2, UNITS - UNITS // 10)


def test_without_either_there_are_defaults() -> None:
    found = parse_levels(None, None)
    assert [label for label, _ in found.quantiles] == ["0.1", "0.5", "0.9"]
    assert not found.asked
    assert parse_levels([], None).quantiles == ()


@pytest.mark.parametrize(
    ("quantiles", "levels", "param"),
    [
        ([0.0], None, "quantile_levels"),
        ([1.0], None, "quantile_levels"),
        ([-0.1], None, "quantile_levels"),
        ([0.12345678], None, "quantile_levels"),
        ([0.1] * 101, None, "quantile_levels"),
        (None, [100], "levels"),
        (None, [-1], "levels"),
        (None, [99.99999], "levels"),
        (None, [80.12345], "levels"),
    ],
)
def test_a_level_that_cannot_be_is_refused(
    quantiles: list[float] | None, levels: list[float] | None, param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        parse_levels(quantiles, levels)
    assert (caught.value.status_code, caught.value.param) == (422, param)
