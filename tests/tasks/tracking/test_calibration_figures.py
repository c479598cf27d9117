from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib import image

from tasks.calibration.findings import find_differences
from tasks.calibration.report import (
    CalibrationReport,
    FeatureDrift,
    Finding,
    Place,
    RangeCoverage,
    Resemblance,
)
from tasks.tracking.calibration_figures import draw_drift, draw_ranges, write_calibration_files

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

STREET = Place(stratum="noise", value="street")


def tensor(name: str, worst: float, *, place: Place = STREET, ours: float = 2.0, theirs: float = 5.0) -> RangeCoverage:
    return RangeCoverage(
        tensor=name,
        set_largest=ours,
        production_largest=theirs,
        clipped=worst / 2,
        worst=place,
        worst_clipped=worst,
        evident=worst > 0,
    )


def feature(name: str, ks: float, ks_low: float, place: Place = STREET) -> FeatureDrift:
    return FeatureDrift(
        feature=name, place=place, psi=0.0, psi_low=0.0, ks=ks, ks_low=ks_low, set_samples=90, production_samples=600
    )


def report(features: Any = (), ranges: Any = (), **changes: Any) -> CalibrationReport:
    found = Resemblance(
        set_samples=90,
        production_samples=600,
        counts={},
        production_counts={},
        features=tuple(features),
        ranges=tuple(ranges),
    )
    fields: dict[str, Any] = {
        "name": "oral",
        "digest": f"sha256:{'a' * 64}",
        "production": "validation",
        "production_digest": f"sha256:{'b' * 64}",
        "age_days": 3,
        "max_age_days": 365,
        "strata": (),
        "resemblance": found,
        "findings": tuple(find_differences(found)),
    }
    return CalibrationReport(**(fields | changes))


def lengths(axes: Axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


MANY_FEATURES = [feature(f"mel[{number}] deviation", 0.01 * number, 0.008 * number) for number in range(80)]
MANY_RANGES = [
    tensor(f"/encoder/layers.{number}/self_attn/out_proj/MatMul", 0.6 / (number + 1)) for number in range(60)
]


def test_features_are_drawn_worst_on_top_with_distance_and_bound() -> None:
    rows = [feature("a", 0.3, 0.1), feature("b", 0.9, 0.5, Place()), feature("c", 0.2, 0.1)]
    (axes,) = draw_drift(report(rows)).axes
    assert labels(axes) == ["c, noise=street", "a, noise=street", "b"]  # the last is on top
    assert lengths(axes) == [0.2, 0.3, 0.9, 0.1, 0.1, 0.5]


def test_a_feature_that_differs_by_its_psi_alone_is_among_the_worst() -> None:
    shifted = feature("z", 0.1, 0.0).model_copy(update={"psi": 2.0, "psi_low": 1.0})
    (axes,) = draw_drift(report([*MANY_FEATURES[:40], shifted])).axes
    assert labels(axes)[-1] == "z, noise=street"


def test_a_feature_that_differs_has_another_colour() -> None:
    (axes,) = draw_drift(report([feature("a", 0.3, 0.1), feature("b", 0.9, 0.5)])).axes
    fine, bad = (patch.get_facecolor()[:3] for patch in axes.patches[:2])
    assert fine != bad


def test_ranges_are_drawn_worst_on_top_with_their_place() -> None:
    ends, errors = draw_ranges(report(ranges=[tensor("a", 0.25), tensor("b", 0.0, theirs=1.0)])).axes
    assert labels(ends) == ["b", "a"]
    assert lengths(ends) == [0.5, 2.5]
    assert lengths(errors) == [0.0, 25.0]
    assert [text.get_text().strip() for text in errors.texts] == ["noise=street"]


def test_a_tensor_that_the_set_left_at_zero_has_a_bar() -> None:
    ends, _ = draw_ranges(report(ranges=[tensor("a", 1.0, ours=0.0), tensor("b", 0.0, ours=0.0, theirs=0.0)])).axes
    assert lengths(ends) == [1.0, 10.0]


def test_long_names_are_cut_at_their_start() -> None:
    (axes,) = draw_drift(report([feature("x" * 60 + " deviation", 0.3, 0.1, Place())])).axes
    (label,) = labels(axes)
    assert label.startswith("…")
    assert label.endswith(" deviation")
    assert len(label) == 34


@pytest.mark.parametrize("count", [1, 3, 60])
def test_pictures_have_a_sensible_size_and_cut_nothing_off(tmp_path: Path, count: int) -> None:
    made = report(MANY_FEATURES[:count], MANY_RANGES[:count])
    write_calibration_files(made, tmp_path / "calibration")
    for name in ("drift", "ranges"):
        picture = image.imread(tmp_path / "calibration" / f"{name}.png")
        height, width = picture.shape[:2]
        assert width == 1100
        assert 200 <= height <= 1000
        edge = np.concatenate([picture[:3].reshape(-1, 4), picture[-3:].reshape(-1, 4), picture[:, -3:].reshape(-1, 4)])
        assert np.all(edge[:, :3] == 1)  # white: nothing runs out of the picture


def test_files_hold_the_report(tmp_path: Path) -> None:
    made = report(MANY_FEATURES, MANY_RANGES)
    write_calibration_files(made, tmp_path / "calibration")
    folder = tmp_path / "calibration"
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", "drift.png", "ranges.png"}
    assert CalibrationReport.model_validate_json((folder / "report.json").read_text()) == made
    assert made.findings[0].sentence in (folder / "report.md").read_text()


def test_what_was_not_compared_has_no_figure(tmp_path: Path) -> None:
    write_calibration_files(report(), tmp_path / "calibration")
    assert {path.name for path in (tmp_path / "calibration").iterdir()} == {"report.json", "report.md"}


def test_no_path_of_this_host_gets_out(tmp_path: Path) -> None:
    finding = Finding(check="drift", sentence="from /home/ann/secret-folder/traffic.npz")
    write_calibration_files(report(findings=(finding,)), tmp_path / "calibration")
    for path in (tmp_path / "calibration").iterdir():
        assert "secret-folder" not in path.read_text()
    assert json.loads((tmp_path / "calibration" / "report.json").read_text())["findings"] == [
        {"check": "drift", "sentence": "from …/traffic.npz"}
    ]
