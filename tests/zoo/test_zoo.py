"""Models of the zoo through the stages, up to their verdicts: six of them here, all of them in `make hardship`.

`make zoo` converts them by the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.errors import StageError
from tasks.model.model_directory import read_model_directory
from tasks.model.settled import with_settled
from tasks.records import Cell, EngineJob
from tasks.specs import Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.stages.fresh import run_fresh
from tasks.stages.ingest import ingest
from tasks.stages.probe import probe_module
from tasks.stages.reference import run_reference
from tasks.store.local import LocalStore
from tasks.torch_side.module_source import store_module
from tests.tasks.in_process import InProcess
from tests.zoo.directory import PRECISIONS, write_animal
from tests.zoo.kept import judge_kept
from tests.zoo.table import TRAINED, ZOO
from validation.verdict import decide

if TYPE_CHECKING:
    from pathlib import Path

FEW = ("signal", "pair", "names", "classes", "in-place", "extra")
ANIMALS = {animal.name: animal for animal in ZOO}


OTHERS = [pytest.param(name, marks=pytest.mark.hardship(only=True)) for name in ANIMALS if name not in FEW]


@pytest.mark.parametrize("name", [*FEW, *OTHERS])
def test_each_engine_of_a_model_gets_the_verdict_that_is_right(tmp_path: Path, name: str) -> None:
    animal, context = ANIMALS[name], InProcess(LocalStore(tmp_path / "store"))
    directory = read_model_directory(write_animal(animal, tmp_path / "model"))
    data = ingest(context, directory.spec, directory.validation, "validation.data").result
    directory = with_settled(directory, probe_module(context, directory, data).result.settled)
    exported = export_onnx(context, directory, data).result
    reference = run_reference(context, directory, data).result
    reference = reference.model_copy(update={"fresh": run_fresh(context, directory, data, exported).result})
    assert directory.calibration is not None
    drawn = sorted(directory.calibration.path.glob("*.npz"))
    calibration = ingest(context, directory.spec, drawn, "calibration.set").result
    found = {}
    for precision in map(Precision, PRECISIONS):
        of_set = calibration if precision is Precision.INT8 else None
        try:
            typed = convert_precision(context, exported, precision, directory.spec, of_set, data=data).result
        except StageError as error:
            found[precision.value] = ("fail", str(error))
            continue
        job = EngineJob(
            cell=Cell(model=name, target="cpu", precision=precision, version="0" * 12),
            spec=directory.spec,
            policy=directory.policy(precision),
            typed=typed,
            data=data,
            reference=reference,
            module=store_module(context, directory).result,
        )
        compared = compare_engine(context, job, build_engine(context, job).result).result
        verdict = decide(job.policy, compared.comparison, precision=precision.value)
        found[precision.value] = (verdict.outcome.value, f"{verdict.defects} {verdict.worst_rule.sentence}")
        if not verdict.defects:
            opinion = judge_kept(context.store, animal.outputs, precision.value)
            assert opinion is not None
            assert not opinion.objection(verdict.outcome.value)
    for precision_name, (outcome, why) in found.items():
        assert outcome in getattr(animal, precision_name), f"{precision_name}: {why}"


def test_the_zoo_has_forty_models_of_forty_names() -> None:
    names = {row.name for row in (*ZOO, *TRAINED)}
    assert len(names) == len(ZOO) + len(TRAINED) >= 40


def test_one_verdict_alone_is_right_of_each_engine_and_one_that_is_not_a_pass_has_its_reason() -> None:
    for row in (*ZOO, *TRAINED):
        verdicts = [*row.fp16, *row.int8]
        assert len(verdicts) == len(PRECISIONS)
        assert set(verdicts) <= {"pass", "fail"}
        assert set(verdicts) == {"pass"} or row.why
