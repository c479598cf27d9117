from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tasks.stages.miscompiled import (
    describe_miscompiled,
    is_miscompiled,
    miscompiled_in_words,
    next_rebuild,
    witness_of,
)
from tests.tasks.tiny import cell, job, make_outcome, put, put_model
from validation.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.rebuild_records import MiscompiledBuild
    from tasks.records import BuiltEngine, EngineJob
    from tasks.store.local import LocalStore

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


@pytest.fixture
def asked(store: LocalStore, tmp_path: Path) -> EngineJob:
    """The job of an INT8 engine for a GPU, whose graph has a second form with FP16 around it."""
    typed = put_model(store, tmp_path / "onnx")
    half = put_model(store, tmp_path / "half", body="t = ReduceSum<keepdims=0>(features, one) score = Tanh(t)")
    both = job(store, typed.model_copy(update={"half": half}), target="t4")
    return both.model_copy(update={"cell": cell("int8", target="t4")})


def failed(store: LocalStore) -> tuple[BuiltEngine, Verdict]:
    made = make_outcome(store, noise=0.3)
    assert made.engine
    assert made.verdict
    return made.engine, made.verdict


def ended(verdict: Verdict, outcome: Outcome) -> Verdict:
    return replace(verdict, outcome=outcome)


def test_the_witness_runs_the_very_graph_that_the_engine_was_built_from(store: LocalStore, asked: EngineJob) -> None:
    engine, verdict = failed(store)
    half = asked.typed.half
    assert half
    for built_from in (asked.typed, half):
        found = witness_of(asked, engine.model_copy(update={"onnx": built_from.onnx.digest}), verdict)
        assert found
        assert found.typed.onnx == built_from.onnx
        assert found.typed.half is None
        assert (found.cell.target, found.cell.runtime) == ("cpu", "onnxruntime")
        assert (found.cell.precision, found.policy, found.data) == (asked.cell.precision, asked.policy, asked.data)


def test_no_witness_is_asked_where_an_engine_did_not_fail_or_its_runtime_times_no_kernels(
    store: LocalStore, asked: EngineJob
) -> None:
    engine, verdict = failed(store)
    assert witness_of(asked, engine, ended(verdict, PASS)) is None
    assert witness_of(asked, engine, ended(verdict, OPEN)) is None
    assert witness_of(asked.model_copy(update={"cell": cell("int8")}), engine, verdict) is None


@pytest.mark.parametrize(
    ("engine", "witness", "found"),
    [(FAIL, PASS, True), (FAIL, FAIL, False), (FAIL, OPEN, False), (PASS, PASS, False), (OPEN, PASS, False)],
)
def test_an_engine_is_miscompiled_where_it_fails_and_its_graph_passes(
    store: LocalStore, engine: Outcome, witness: Outcome, found: bool
) -> None:
    _, verdict = failed(store)
    assert is_miscompiled(ended(verdict, engine), ended(verdict, witness)) is found


def build_of(store: LocalStore, tactics: Artifact | None) -> MiscompiledBuild:
    engine, verdict = failed(store)
    witness = make_outcome(store).engine
    assert witness
    return describe_miscompiled(engine.model_copy(update={"tactics": tactics}), verdict, witness)


def test_what_is_kept_says_how_it_failed_by_whom_it_was_found_and_of_what_it_was_made(store: LocalStore) -> None:
    tactics = put(store, {"tactics.json": b"{}"})
    kept = build_of(store, tactics)
    engine, _ = failed(store)
    assert (kept.plan, kept.witness, kept.tactics) == (engine.plan.digest, "onnxruntime 1", tactics)
    assert "beyond its" in kept.sentence


def test_each_rebuild_is_led_away_from_all_builds_before_it(store: LocalStore) -> None:
    tactics = [put(store, {"tactics.json": content}) for content in (b"1", b"2")]
    one, unknown, other = build_of(store, tactics[0]), build_of(store, None), build_of(store, tactics[1])
    assert next_rebuild((one,)).model_dump()["attempt"] == 1
    assert next_rebuild((one, unknown, other)).avoid == tuple(tactics)
    assert next_rebuild((one, unknown, other)).attempt == 3


def test_a_sentence_says_how_often_it_was_built_and_what_became_of_it(store: LocalStore) -> None:
    one = build_of(store, None)
    assert miscompiled_in_words((), is_right=True) == ""
    assert miscompiled_in_words((one,), is_right=False) == (
        "miscompiled: its ONNX file passes on onnxruntime 1 where this engine fails; built once"
    )
    assert miscompiled_in_words((one,) * 4, is_right=False).endswith("built 4 times")
    assert miscompiled_in_words((one,), is_right=True) == (
        "built 2 times: the build before it was miscompiled, since its ONNX file passes on onnxruntime 1 where that one"
        " failed"
    )
    assert "the 2 builds before it were miscompiled" in miscompiled_in_words((one, one), is_right=True)
