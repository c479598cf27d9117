"""What a runner leaves of work that it refuses; with workers, tests/flows/runners asks the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.console import Reporter
from flows.conversion.engine_flow import make_engine
from flows.runners import gpu_lock
from flows.runners.handover import leave_job, take_outcome
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.backends.gpu import Gpu
from tasks.errors import RefusedError
from tasks.store.local import LocalStore
from tests.tasks.tiny import job, put_model
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "0cac9fe9-ad94-49b7-afed-3a4c7db956d1"
T4 = Gpu(name="NVIDIA T4", compute_capability="7.5", driver="1", cuda="13.0", mig=None, uuid="GPU-1")


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """That of a flow run on a host with a T4."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: T4)
    with use_session(Session(Settings(home=tmp_path / "home"), Reporter())) as session:
        yield session


def test_work_for_another_gpu_is_refused_and_the_reason_is_left_as_its_outcome(
    session: Session, tmp_path: Path
) -> None:
    asked = job(session.store, put_model(session.store, tmp_path), target="a10g")
    with pytest.raises(RefusedError, match="the engine is for a10g; start this worker on pool gpu-t4") as refused:
        make_engine.fn(asked.cell.engine_id, leave_job(session.store, asked))
    left = take_outcome(session.store, RUN, asked)
    assert left is not None
    assert (left.outcome, left.reason) == (Outcome.FAIL, str(refused.value))


def test_a_python_for_torch_that_lacks_a_package_fails_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"python": "3.12", "torch": "2.9"}\'\n')
    python.chmod(0o700)
    session = Session(Settings(home=tmp_path / "home", torch_python=python), Reporter())
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)
    asked = job(session.store, put_model(session.store, tmp_path))
    with use_session(session):
        outcome = make_engine.fn(asked.cell.engine_id, leave_job(session.store, asked))
    assert outcome.outcome is Outcome.FAIL
    assert "ENGINEGATE_TORCH_PYTHON" in outcome.reason
    assert "has no safetensors, numpy, pydantic, pyyaml" in outcome.reason
    assert session.reporter.steps == [], "nothing was built"


def test_a_job_of_another_store_is_refused_and_leaves_no_outcome(session: Session, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "other")
    asked = job(other, put_model(other, tmp_path), target="t4")
    with pytest.raises(RefusedError, match="is ENGINEGATE_STORE here that of the conversion"):
        make_engine.fn(asked.cell.engine_id, leave_job(other, asked))
    assert take_outcome(session.store, RUN, asked) is None
