from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.calibration.activations import MOST_RUN
from tasks.calibration.check import Production, check_calibration, require_inputs, set_digest
from tasks.calibration.manifest import CalibrationManifest
from tasks.calibration.report import CalibrationReport
from tasks.data import BareSpec
from tasks.errors import InputError, StageError
from tasks.records import ExportedModel
from tasks.specs import InputSpec
from tests.tasks.tiny import make_features, put, put_data, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.memo import Remembered
    from tasks.records import DataArtifact
    from tasks.workbench import Workbench

COLLECTED = dt.date(2026, 3, 1)
TODAY = dt.date(2026, 3, 31)
INPUTS: dict[str, Any] = {"features": {"dtype": "float32", "shape": ["batch", 4]}}


def manifest(**changes: Any) -> CalibrationManifest:
    content: dict[str, Any] = {
        "name": "made",
        "inputs": INPUTS,
        "source": "a test",
        "collected": {"from": COLLECTED, "to": COLLECTED},
        "samples": 64,
        "files": [{"path": "set.npz", "samples": 64, "sha256": "0" * 64}],
        "strata": {"noise": {"quiet": 20, "street": 0.25}},
        "max_age_days": 30,
    }
    return CalibrationManifest.model_validate(content | changes)


def data(bench: Workbench, features: Any, *noise: tuple[str, int]) -> DataArtifact:
    notes = {"slice.noise": np.repeat([name for name, _ in noise], [count for _, count in noise])} if noise else {}
    return put_data(bench.store, [{"features": np.asarray(features)}], [notes])


def whole_set(bench: Workbench) -> DataArtifact:
    return data(bench, make_features(64, seed=1), ("quiet", 32), ("street", 32))


def production(bench: Workbench, *noise: tuple[str, int], validation: DataArtifact | None = None) -> Production:
    count = sum(count for _, count in noise) or 200
    return Production("traffic", data(bench, make_features(count, seed=2), *noise), validation)


def exported(bench: Workbench, folder: Path, **graph: str) -> ExportedModel:
    onnx = put(bench.store, {"model.onnx": write_onnx(folder / "graph", **graph).read_bytes()})
    return ExportedModel(onnx=onnx, opset=20, checks={})


def check(
    bench: Workbench, against: Production, *, today: dt.date = TODAY, of: DataArtifact | None = None, **changes: Any
) -> Remembered[CalibrationReport]:
    model = changes.pop("exported", None)
    spec = changes.pop("spec", tiny_spec())
    return check_calibration(bench, manifest(**changes), of or whole_set(bench), against, spec, model, today)


BOTH = (("quiet", 100), ("street", 100))


def test_a_covered_fresh_set_like_production_passes(bench: Workbench, tmp_path: Path) -> None:
    report = check(bench, production(bench, *BOTH), exported=exported(bench, tmp_path)).result
    assert report.passed
    assert (report.name, report.production, report.age_days, report.max_age_days) == ("made", "traffic", 30, 30)
    assert report.digest == set_digest(whole_set(bench))
    assert report.production_digest == set_digest(production(bench, *BOTH).data)
    assert report.resemblance.run == (64, MOST_RUN)
    assert any(row.feature == "output score" for row in report.resemblance.features)


def test_a_report_comes_back_from_json_as_it_was(bench: Workbench) -> None:
    report = check(bench, production(bench, ("quiet", 100), ("bus", 100))).result
    assert not report.passed
    assert CalibrationReport.model_validate_json(report.model_dump_json()) == report


def test_without_a_model_the_reference_is_not_run(bench: Workbench) -> None:
    report = check(bench, production(bench, *BOTH)).result
    assert (report.resemblance.run, report.resemblance.ranges) == (None, ())
    assert {row.feature.partition("[")[0].partition(" ")[0] for row in report.resemblance.features} == {
        "features",
        "joint",
    }


def test_a_graph_whose_outputs_nobody_explains_is_not_run(bench: Workbench, tmp_path: Path) -> None:
    spec = BareSpec({name: InputSpec.model_validate(content) for name, content in INPUTS.items()})
    report = check(bench, production(bench, *BOTH), spec=spec, exported=exported(bench, tmp_path)).result
    assert report.resemblance.run is None


def test_a_second_check_is_remembered_and_its_age_is_not(bench: Workbench) -> None:
    first = check(bench, production(bench, *BOTH))
    second = check(bench, production(bench, *BOTH), today=TODAY + dt.timedelta(days=1))
    assert (first.cached, second.cached) == (False, True)
    assert first.result.passed
    assert [finding.sentence for finding in second.result.findings] == [
        "its newest sample is 31 days old; manifest.yaml's max_age_days is 30"
    ]


def test_another_minimum_is_judged_on_what_was_measured(bench: Workbench) -> None:
    check(bench, production(bench, *BOTH))
    again = check(bench, production(bench, *BOTH), strata={"noise": {"quiet": 33, "street": 1}})
    assert again.cached
    assert [finding.sentence for finding in again.result.findings] == [
        "stratum noise=quiet has 32 samples; manifest.yaml asks for 33"
    ]


def test_other_data_is_measured_anew(bench: Workbench) -> None:
    check(bench, production(bench, *BOTH))
    assert not check(bench, production(bench, ("quiet", 101), ("street", 100))).cached
    relabelled = data(bench, make_features(64, seed=1), ("quiet", 31), ("street", 33))
    assert not check(bench, production(bench, *BOTH), of=relabelled).cached
    held_out = data(bench, make_features(40, seed=3))
    assert not check(bench, production(bench, *BOTH, validation=held_out)).cached


def test_production_without_the_stratum_leaves_its_share_open(bench: Workbench) -> None:
    report = check(bench, production(bench)).result
    assert [(row.value, row.production_share) for row in report.strata] == [("quiet", None), ("street", None)]
    assert report.passed


def test_a_gap_of_coverage_is_named(bench: Workbench) -> None:
    of = data(bench, make_features(64, seed=1), ("quiet", 64))
    report = check(bench, production(bench, ("quiet", 138), ("street", 62)), of=of).result
    assert [finding.sentence for finding in report.findings] == [
        "stratum noise=street has 0 samples, production has 31 %"
    ]


def test_a_sample_of_the_validation_data_is_refused(bench: Workbench) -> None:
    held_out = data(bench, np.concatenate([make_features(40, seed=3), make_features(64, seed=1)[[7]]]))
    with pytest.raises(InputError, match=r"1 of its 64 samples \(first: 7, .*in the validation data too"):
        check(bench, production(bench, *BOTH, validation=held_out))


@pytest.mark.parametrize("samples", [1, 19])
def test_a_sample_of_production_that_shows_nothing_is_refused(bench: Workbench, samples: int) -> None:
    few = Production("traffic", data(bench, make_features(samples)), None)
    with pytest.raises(InputError, match=rf"production sample traffic: holds {samples} samples, and fewer than 20"):
        check(bench, few)


def test_so_is_a_set_of_a_few(bench: Workbench) -> None:
    with pytest.raises(InputError, match="calibration set made: holds 3 samples"):
        check(bench, production(bench), of=data(bench, make_features(3), ("quiet", 2), ("street", 1)))


def test_a_reference_that_gives_no_number_is_no_pass(bench: Workbench, tmp_path: Path) -> None:
    broken = exported(bench, tmp_path, body="p = Mul(features, w)  t = ReduceSum<keepdims=0>(p, one)  score = Sqrt(t)")
    with pytest.raises(StageError, match=r"score is NaN or Inf for \d+ of the 64 samples of the calibration set"):
        check(bench, production(bench, *BOTH), exported=broken)


def test_inputs_of_another_model_are_named() -> None:
    def wanted(**inputs: Any) -> dict[str, InputSpec]:
        return {name: InputSpec.model_validate(content) for name, content in inputs.items()}

    require_inputs(manifest(), wanted(**INPUTS))
    require_inputs(manifest(), wanted(features=INPUTS["features"] | {"pad": 7}))
    with pytest.raises(InputError, match=r"inputs: mask, which model\.yaml has"):
        require_inputs(manifest(), wanted(**INPUTS, mask={"dtype": "bool", "shape": ["batch"]}))
    with pytest.raises(InputError, match=r"inputs: features, which model\.yaml does not have"):
        require_inputs(manifest(), {})
    with pytest.raises(InputError, match=r"inputs\.features: float32 \['batch', 4\], model\.yaml says float16 "):
        require_inputs(manifest(), wanted(features={"dtype": "float16", "shape": ["batch", 4]}))
    with pytest.raises(InputError, match=r"model\.yaml says float32 \['batch', 5\]"):
        require_inputs(manifest(), wanted(features={"dtype": "float32", "shape": ["batch", 5]}))
