from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from flows.conversion.verdicts import judge_together
from flows.runners import handover
from flows.runners.handover import heartbeat, last_heartbeat, leave_job, leave_outcome, take_job, take_outcome
from tasks.errors import RefusedError
from tasks.store.digests import digest_json
from tasks.store.local import LocalStore
from tests.tasks.tiny import cell, compare_scores, job, make_outcome
from validation.verdict import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineJob, EngineOutcome

RUN = "0cac9fe9-ad94-49b7-afed-3a4c7db956d1"


@pytest.fixture
def outcome(store: LocalStore) -> EngineOutcome:
    return make_outcome(store)


@pytest.fixture
def asked(store: LocalStore, outcome: EngineOutcome) -> EngineJob:
    assert outcome.typed
    return job(store, outcome.typed)


def test_a_job_and_its_outcome_come_out_as_they_went_in(
    store: LocalStore, asked: EngineJob, outcome: EngineOutcome
) -> None:
    key = leave_job(store, asked)
    assert take_job(store, asked.cell.engine_id, key) == asked
    assert take_outcome(store, RUN, asked) is None
    leave_outcome(store, RUN, outcome)
    assert take_outcome(store, RUN, asked) == outcome
    assert take_outcome(store, "another run", asked) is None


def test_a_job_of_another_engine_or_of_another_store_is_refused(
    store: LocalStore, asked: EngineJob, tmp_path: Path
) -> None:
    key = leave_job(store, asked)
    with pytest.raises(RefusedError, match="is ENGINEGATE_STORE here that of the conversion"):
        take_job(store, cell(target="t4").engine_id, key)
    with pytest.raises(RefusedError, match="its job is not in this runner's store"):
        take_job(LocalStore(tmp_path / "other"), asked.cell.engine_id, key)
    shutil.rmtree(store.root / "blobs")
    with pytest.raises(RefusedError, match="of its artifacts are not in this runner's store, sha256:"):
        take_job(store, asked.cell.engine_id, key)


@pytest.mark.parametrize(
    "change",
    [
        {"cell": cell("fp16")},
        {"policy": None},
        {"typed": None},
        {"outcome": Outcome.INCONCLUSIVE},
        {"outcome": Outcome.FAIL},
        {"compared": None},
        {"engine": None},
        {"verdict": None},
    ],
)
def test_an_outcome_that_does_not_belong_or_does_not_follow_is_refused(
    store: LocalStore, asked: EngineJob, outcome: EngineOutcome, change: dict[str, Any]
) -> None:
    leave_outcome(store, RUN, outcome.model_copy(update=change))
    with pytest.raises(RefusedError, match="is no outcome of it"):
        take_outcome(store, RUN, asked)


def test_a_verdict_that_the_comparison_does_not_bear_out_is_refused(
    store: LocalStore, asked: EngineJob, outcome: EngineOutcome
) -> None:
    assert outcome.compared
    worse = outcome.compared.model_copy(update={"comparison": compare_scores(0.3)})
    leave_outcome(store, RUN, outcome.model_copy(update={"compared": worse}))
    with pytest.raises(RefusedError, match="is no outcome of it"):
        take_outcome(store, RUN, asked)


def test_a_verdict_that_was_told_of_other_engines_is_refused(
    store: LocalStore, asked: EngineJob, outcome: EngineOutcome
) -> None:
    (judged,) = judge_together([outcome])
    assert judged.outcome is outcome.outcome
    leave_outcome(store, RUN, judged)
    with pytest.raises(RefusedError, match="is no outcome of it"):
        take_outcome(store, RUN, asked)


def test_a_comparison_of_another_plan_is_refused(store: LocalStore, asked: EngineJob, outcome: EngineOutcome) -> None:
    assert outcome.compared
    other = outcome.compared.model_copy(update={"plan": digest_json("another plan")})
    leave_outcome(store, RUN, outcome.model_copy(update={"compared": other}))
    with pytest.raises(RefusedError, match="is no outcome of it"):
        take_outcome(store, RUN, asked)


def test_an_outcome_whose_artifacts_are_not_in_the_store_is_refused(
    store: LocalStore, asked: EngineJob, outcome: EngineOutcome
) -> None:
    leave_outcome(store, RUN, outcome)
    shutil.rmtree(store.root / "blobs")
    with pytest.raises(RefusedError, match="give both one ENGINEGATE_STORE"):
        take_outcome(store, RUN, asked)


def test_an_edited_outcome_counts_as_none(store: LocalStore, asked: EngineJob, outcome: EngineOutcome) -> None:
    leave_outcome(store, RUN, outcome)
    (path,) = (store.root / "records" / "outcome").iterdir()
    path.write_text(path.read_text().replace('"outcome": "pass"', '"outcome": "fail"'))
    assert take_outcome(store, RUN, asked) is None


def test_heartbeats_come_while_the_work_lasts_and_no_longer(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HEARTBEAT_EVERY_S", 0.02)
    assert last_heartbeat(store, RUN) is None
    seen = set()
    with heartbeat(store, RUN):
        deadline = time.monotonic() + 10
        while len(seen) < 4 and time.monotonic() < deadline:
            seen.add(last_heartbeat(store, RUN))
    assert len(seen) >= 4
    last = last_heartbeat(store, RUN)
    time.sleep(0.1)
    assert last_heartbeat(store, RUN) == last
    assert last_heartbeat(store, "another run") is None
