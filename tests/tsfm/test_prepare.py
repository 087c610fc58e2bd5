"""What a job that fills gaps cuts beside its blocks: longer gaps, and the guess its networks are shown."""

from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.tsfm.jobs import FAST, HORIZON
from tests.tsfm.series.frames import frame_of
from tsfm import catalog
from tsfm.prepare import LONGER, Data, prepare
from tsfm.request import FinetuneRequest, resolve
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block


def prepared(frame: SeriesFrame, **asked: Any) -> Data:
    request = {"backbone": "temper-tiny", "method": "full", "prediction_length": HORIZON, "hyperparameters": FAST}
    request |= {"task": "imputation", "context_length": 48, **asked}
    facts = {"freq": frame.freq, "max_length": int(frame.lengths.max())}
    resolved = resolve(FinetuneRequest.from_mapping(request), facts)
    return prepare(frame, resolved, catalog.backbone(resolved["backbone"]))


class TestLonger:
    def test_they_are_of_the_validation_block_and_half_of_them_whole(self) -> None:
        data = prepared(toy.frame(length=900))
        assert data.longer is not None
        assert data.longer.prediction_length == LONGER * HORIZON
        begin, end = data.split.block(Block.VALIDATION)
        assert (data.longer.origin >= begin[data.longer.series]).all()
        assert (data.longer.origin + LONGER * HORIZON <= end[data.longer.series]).all()
        batch = data.longer.batch(np.arange(len(data.longer)))
        assert batch.gap is not None
        assert 0.4 < (batch.gap == LONGER * HORIZON).mean() < 0.65
        assert data.longer.around is not None
        assert np.array_equal(data.longer.around.limits, end), "no later block is seen behind a gap"

    def test_there_are_none_in_a_block_that_is_too_short(self) -> None:
        assert prepared(toy.frame(length=240), prediction_length=12).longer is None

    def test_a_network_that_shows_less_around_longer_gaps_does_so(self) -> None:
        data = prepared(toy.frame(length=3_000), prediction_length=60, context_length=224)
        assert data.longer is not None
        assert (data.validation.context_length, data.longer.context_length) == (224, 128)

    def test_forecasts_have_none(self) -> None:
        assert prepared(toy.frame(length=900), task="forecast").longer is None


class TestGuess:
    @pytest.mark.parametrize("season", [True, False])
    def test_it_is_what_fills_the_train_windows_better(self, season: bool) -> None:
        rng = np.random.default_rng(0)
        repeated, walk = np.tile(10 * rng.standard_normal(24), 40), rng.standard_normal(960).cumsum()
        data = prepared(frame_of(repeated if season else walk))
        assert data.guess == (24 if season else 1)
        every = (data.train, data.validation, data.longer, data.calibration, data.test)
        assert {one.around.period for one in every if one is not None and one.around is not None} == {data.guess}
