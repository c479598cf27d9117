from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.calibration.sets import read_set
from tasks.checks.calibration_checks import check_set_cheaply
from tasks.checks.remarks import Level, Remark
from tasks.errors import InputError
from tests.sets import describe
from tests.tasks.tiny import SPEC, make_features, put_data, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess

VALIDATION = make_features(100)
OTHERS = make_features(64, seed=1)


def remarks_on(here: InProcess, folder: Path, features: np.ndarray, today: dt.date | None = None) -> list[Remark]:
    (folder / "set").mkdir()
    np.savez(folder / "set" / "a.npz", features=features)
    describe(folder / "set", SPEC["inputs"], max_age_days=30)
    data, validation = (put_data(here.store, [{"features": each}]) for each in (features, VALIDATION))
    checked = read_set(folder / "set", folder / "downloads")
    return list(check_set_cheaply(here, tiny_spec(), checked, data, validation, today))


def test_a_fresh_set_of_other_samples_is_good(here: InProcess, tmp_path: Path) -> None:
    (remark,) = remarks_on(here, tmp_path, OTHERS)
    assert (remark.level, remark.text) == (Level.GOOD, "made: 64 samples, of which none is validation data")


def test_an_old_set_is_warned_of(here: InProcess, tmp_path: Path) -> None:
    later = dt.datetime.now(dt.timezone.utc).date() + dt.timedelta(days=31)
    remark = remarks_on(here, tmp_path, OTHERS, later)[1]
    assert remark.level is Level.WARNING
    assert "its newest sample is 31 days old" in remark.text


@pytest.mark.parametrize(("noise", "words"), [(0.0, "are in the validation data too"), (1e-4, "are near copies of")])
def test_validation_samples_in_a_set_and_near_copies_stop(
    here: InProcess, tmp_path: Path, noise: float, words: str
) -> None:
    copies = OTHERS.copy()
    copies[:3] = VALIDATION[:3] + np.float32(noise)
    with pytest.raises(InputError, match=words):
        remarks_on(here, tmp_path, copies)
