from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import StageError
from tasks.records import BackendIdentity
from tasks.stages.build import BuildRequest, build_engine
from tests.tasks.fragile_runtime import break_highest_level
from tests.tasks.tiny import cell, job, make_features, put_model, score, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tests.tasks.in_process import InProcess


def test_an_engine_is_built_in_a_child_and_found_again(context: StageContext, tmp_path: Path) -> None:
    typed = put_model(context.store, tmp_path / "onnx")
    first = build_engine(context, job(context.store, typed))
    assert (first.cached, build_engine(context, job(context.store, typed)).cached) == (False, True)
    assert [file.path for file in first.result.plan.files] == ["engine.onnx"]
    assert first.result.backend == OnnxRuntimeBackend().identity()
    engine = OnnxRuntimeBackend().load(context.store.fetch(first.result.plan, tmp_path / "plan"))
    features = make_features(3)
    assert abs(engine.run({"features": features})["score"] - score(features)).max() < 1e-6


def test_everything_that_an_engine_depends_on_changes_its_key(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def fake_build(_entry: str, request: BuildRequest, *_arguments: object, **_options: object) -> tuple[str, ...]:
        built.append(str(request.onnx))
        return ()

    monkeypatch.setattr("tasks.process.context.call_in_child", fake_build)
    typed = put_model(context.store, tmp_path / "onnx")
    wider = {"batch": {"min": 1, "opt": 8, "max": 32}}
    half = job(context.store, typed).model_copy(update={"cell": cell("fp16")})
    other = put_model(
        context.store, tmp_path / "other", body="t = ReduceSum<keepdims=0>(features, one) score = Tanh(t)"
    )

    def keys() -> list[str]:
        return [
            build_engine(context, job(context.store, typed)).result.cache_key,
            build_engine(context, job(context.store, typed, spec=tiny_spec(dims=wider))).result.cache_key,
            build_engine(context, job(context.store, other)).result.cache_key,
            build_engine(
                context, job(context.store, typed.model_copy(update={"recipe": {"converter": "cast"}}))
            ).result.cache_key,
            build_engine(context, half).result.cache_key,
        ]

    first = keys()
    assert len(set(first)) == len(built) == 5
    assert keys() == first
    changed = BackendIdentity(name="onnxruntime", version="0", device="cpu")
    monkeypatch.setattr(OnnxRuntimeBackend, "identity", lambda _self: changed)
    second = keys()
    monkeypatch.setattr(
        OnnxRuntimeBackend, "options", lambda _self, _settings, _precision: {"graph_optimization_level": "none"}
    )
    assert len({*first, *second, *keys()}) == 15


def test_a_target_that_this_host_cannot_build_for_is_refused_before_any_work(
    context: StageContext, tmp_path: Path
) -> None:
    typed = put_model(context.store, tmp_path / "onnx")
    with pytest.raises(StageError, match=r"no NVIDIA GPU can be used here|nvidia-ml-py is not installed"):
        build_engine(context, job(context.store, typed, target="t4"))


def test_a_graph_that_cannot_be_built_is_a_failed_stage_and_leaves_nothing(
    context: StageContext, tmp_path: Path
) -> None:
    typed = put_model(context.store, tmp_path / "onnx", body="score = Sigmund(features)")
    with pytest.raises(StageError, match="cannot build an engine"):
        build_engine(context, job(context.store, typed))
    assert not list((tmp_path / "store").glob("records/build/*"))
    assert list((tmp_path / "store" / "scratch").glob("*")) == []


def test_an_engine_that_the_highest_level_breaks_is_loaded_one_lower_wherever_it_goes_and_says_so(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, told = put_model(here.store, tmp_path / "onnx"), list[str]()
    levels = break_highest_level(monkeypatch, below="plan")
    built = build_engine(replace(here, on_warning=told.append), job(here.store, typed)).result
    assert levels == ["ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED"]
    (warning,) = told
    assert warning.startswith("it is loaded at ONNX Runtime's optimisation level `extended`, wherever it is served")
    assert "the layout optimiser fell over" in warning
    assert [file.path for file in built.plan.files] == ["engine.onnx", "session.json"]
    assert built.options == {"graph_optimization_level": "extended", "loaded_at": "extended"}
    engine = OnnxRuntimeBackend().load(here.store.fetch(built.plan, tmp_path / "plan"))
    assert levels[2:] == ["ORT_ENABLE_EXTENDED"]
    features = make_features(3)
    assert abs(engine.run({"features": features})["score"] - score(features)).max() < 1e-6


def test_an_engine_that_loads_is_as_it_was_and_nothing_is_said(here: InProcess, tmp_path: Path) -> None:
    built = build_engine(
        replace(here, on_warning=pytest.fail), job(here.store, put_model(here.store, tmp_path / "onnx"))
    ).result
    assert built.options == {"graph_optimization_level": "extended"}
    assert [file.path for file in built.plan.files] == ["engine.onnx"]


def test_where_a_lower_level_does_not_help_the_first_failure_is_told(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: OnnxRuntimeBackend, plan: Path) -> None:
        raise StageError(f"cannot be loaded: {len(list(plan.iterdir()))}")

    monkeypatch.setattr(OnnxRuntimeBackend, "load", fail)
    with pytest.raises(StageError, match="cannot be loaded: 1"):
        build_engine(here, job(here.store, put_model(here.store, tmp_path / "onnx")))
