from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.calibration.activations import MOST_RUN
from tasks.calibration.check import Production, check_calibration, require_inputs, set_digest
from tasks.calibration.report import CalibrationReport
from tasks.declared import InputSpec
from tasks.errors import InputError, StageError
from tasks.model.set_manifest import CalibrationManifest
from tasks.records import ExportedModel
from tasks.samples.data_spec import BareSpec
from tests.tasks.tiny import make_features, put, put_data, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from tasks.store.stage_cache import StageResult
    from tests.tasks.in_process import InProcess

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


def data(context: StageContext, features: Any, *noise: tuple[str, int]) -> DataArtifact:
    notes = {"slice.noise": np.repeat([name for name, _ in noise], [count for _, count in noise])} if noise else {}
    return put_data(context.store, [{"features": np.asarray(features)}], [notes])


def whole_set(context: StageContext) -> DataArtifact:
    return data(context, make_features(64, seed=1), ("quiet", 32), ("street", 32))


def production(context: StageContext, *noise: tuple[str, int], validation: DataArtifact | None = None) -> Production:
    count = sum(count for _, count in noise) or 200
    return Production("traffic", data(context, make_features(count, seed=2), *noise), validation)


def exported(context: StageContext, folder: Path, **graph: str) -> ExportedModel:
    onnx = put(context.store, {"model.onnx": write_onnx(folder / "graph", **graph).read_bytes()})
    return ExportedModel(onnx=onnx, opset=20, checks={})


def check(
    context: StageContext,
    against: Production,
    *,
    today: dt.date = TODAY,
    of: DataArtifact | None = None,
    **changes: Any,
) -> StageResult[CalibrationReport]:
    model = changes.pop("exported", None)
    spec = changes.pop("spec", tiny_spec())
    return check_calibration(context, manifest(**changes), of or whole_set(context), against, spec, model, today)


BOTH = (("quiet", 100), ("street", 100))


def test_a_covered_fresh_set_like_production_passes(context: StageContext, tmp_path: Path) -> None:
    report = check(context, production(context, *BOTH), exported=exported(context, tmp_path)).result
    assert report.passed
    assert (report.name, report.production, report.age_days, report.max_age_days) == ("made", "traffic", 30, 30)
    assert report.digest == set_digest(whole_set(context))
    assert report.production_digest == set_digest(production(context, *BOTH).data)
    assert report.resemblance.run == (64, MOST_RUN)
    assert any(row.feature == "output score" for row in report.resemblance.features)


def test_a_report_comes_back_from_json_as_it_was(here: InProcess) -> None:
    report = check(here, production(here, ("quiet", 100), ("bus", 100))).result
    assert not report.passed
    assert CalibrationReport.model_validate_json(report.model_dump_json()) == report


def test_without_a_model_the_reference_is_not_run(here: InProcess) -> None:
    report = check(here, production(here, *BOTH)).result
    assert (report.resemblance.run, report.resemblance.ranges) == (None, ())
    assert {row.feature.partition("[")[0].partition(" ")[0] for row in report.resemblance.features} == {
        "features",
        "joint",
    }


def test_a_graph_whose_outputs_nobody_explains_is_not_run(here: InProcess, tmp_path: Path) -> None:
    spec = BareSpec({name: InputSpec.model_validate(content) for name, content in INPUTS.items()})
    report = check(here, production(here, *BOTH), spec=spec, exported=exported(here, tmp_path)).result
    assert report.resemblance.run is None


def test_a_second_check_is_remembered_and_its_age_is_not(here: InProcess) -> None:
    first = check(here, production(here, *BOTH))
    second = check(here, production(here, *BOTH), today=TODAY + dt.timedelta(days=1))
    assert (first.cached, second.cached) == (False, True)
    assert first.result.passed
    assert [finding.sentence for finding in second.result.findings] == [
        "its newest sample is 31 days old; manifest.yaml's max_age_days is 30"
    ]


def test_another_minimum_is_judged_on_what_was_measured(here: InProcess) -> None:
    check(here, production(here, *BOTH))
    again = check(here, production(here, *BOTH), strata={"noise": {"quiet": 33, "street": 1}})
    assert again.cached
    assert [finding.sentence for finding in again.result.findings] == [
        "stratum noise=quiet has 32 samples; manifest.yaml asks for 33"
    ]


def test_other_data_is_measured_anew(here: InProcess) -> None:
    check(here, production(here, *BOTH))
    assert not check(here, production(here, ("quiet", 101), ("street", 100))).cached
    relabelled = data(here, make_features(64, seed=1), ("quiet", 31), ("street", 33))
    assert not check(here, production(here, *BOTH), of=relabelled).cached
    held_out = data(here, make_features(40, seed=3))
    assert not check(here, production(here, *BOTH, validation=held_out)).cached


def test_production_without_the_stratum_leaves_its_share_open(here: InProcess) -> None:
    report = check(here, production(here)).result
    assert [(row.value, row.production_share) for row in report.strata] == [("quiet", None), ("street", None)]
    assert report.passed


def test_a_gap_of_coverage_is_named(here: InProcess) -> None:
    of = data(here, make_features(64, seed=1), ("quiet", 64))
    report = check(here, production(here, ("quiet", 138), ("street", 62)), of=of).result
    assert [finding.sentence for finding in report.findings] == [
        "stratum noise=street has 0 samples, production has 31 %"
    ]


def test_a_sample_of_the_validation_data_is_refused(here: InProcess) -> None:
    held_out = data(here, np.concatenate([make_features(40, seed=3), make_features(64, seed=1)[[7]]]))
    with pytest.raises(InputError, match=r"1 of its 64 samples \(first: 7, .*in the validation data too"):
        check(here, production(here, *BOTH, validation=held_out))


@pytest.mark.parametrize("samples", [1, 19])
def test_a_sample_of_production_that_shows_nothing_is_refused(here: InProcess, samples: int) -> None:
    few = Production("traffic", data(here, make_features(samples)), None)
    with pytest.raises(InputError, match=rf"production sample traffic: holds {samples} samples, and fewer than 20"):
        check(here, few)


def test_so_is_a_set_of_a_few(here: InProcess) -> None:
    with pytest.raises(InputError, match="calibration set made: holds 3 samples"):
        check(here, production(here), of=data(here, make_features(3), ("quiet", 2), ("street", 1)))


def test_a_reference_that_gives_no_number_is_no_pass(here: InProcess, tmp_path: Path) -> None:
    broken = exported(here, tmp_path, body="p = Mul(features, w)  t = ReduceSum<keepdims=0>(p, one)  score = Sqrt(t)")
    with pytest.raises(StageError, match=r"score is NaN or Inf for \d+ of the 64 samples of the calibration set"):
        check(here, production(here, *BOTH), exported=broken)


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
