"""The router while a rollout is on, with a stand-in for Triton."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.rollout.shards import ArmShard, PairShard, read_shard
from tests.real_triton import route_of, with_canary, write_route
from tests.tasks.memory_objects import MemoryObjects
from tests.triton_stand_in import Question, Server, ask, start_router

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Arrays = Mapping[str, np.ndarray[Any, Any]]

RANGE = (1, 512)
BASE = route_of(1, {"one": RANGE})
SOON_S = 30
COLD = 8
TOKENS = np.arange(1, 6).reshape(1, 5)


def scored(feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {"score": feeds["tokens"].sum(axis=1, dtype=np.float32)}


def off(feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """What the canary answers."""
    return {"score": scored(feeds)["score"] + np.float32(1000)}


def refuse(_: Arrays) -> Arrays:
    raise ValueError("no kernel")


class Host:
    """A router with a rollout."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.server = Server(engines={"one": scored, "next": off})
        self.folder, self.evidence = folder / "scorer", folder / "evidence"
        self._patch = patch
        self.router: Any = None

    def start(self, plans: Mapping[str, tuple[int, int] | int] | None = None, **changes: Any) -> Host:
        self.router = start_router(self._patch, self.folder, self.server, self.route(plans, **changes))
        return self

    def route(self, plans: Mapping[str, tuple[int, int] | int] | None = None, **changes: Any) -> dict[str, Any]:
        changes.setdefault("shard_s", 1000.0)
        changes.setdefault("timeout_ms", 1000.0 * SOON_S)
        return with_canary(BASE, self.evidence, plans or {"next": RANGE}, **changes)

    def ask(self, *questions: Question) -> list[np.ndarray[Any, Any]]:
        """Ask all at once; the scores of each, by whichever way they come."""
        found = []
        for question, response in zip(questions, self.router.execute(questions), strict=True):
            assert question.later is not None
            answer = response if response is not None else question.later.get(timeout=SOON_S)
            found.append(answer.arrays()["score"])
        return found

    def users(self, count: int) -> list[float]:
        """One request each of so many users."""
        return [self.ask(ask({"user": number}, tokens=TOKENS))[0][0] for number in range(count)]

    def warm(self) -> None:
        """Bring the canary past its cold calls."""
        write_route(self.folder, self.route(weight=100.0))
        self.users(COLD)

    def tell(self) -> None:
        """Have what was counted told at once."""
        self.router._metrics.tell(at_once=True)  # noqa: SLF001 - a second is long

    def seen(self) -> tuple[list[PairShard], list[Any]]:
        """End the router; what it wrote."""
        self.router.finalize()
        objects, pairs, arms = MemoryObjects(), [], []
        for path in self.evidence.iterdir() if self.evidence.is_dir() else ():
            key = f"rollouts/scorer/cpu/0123456789ab/host/{path.name}"
            objects.create(key, path.read_bytes())
            shard = read_shard(objects, key, ["score"], set(range(1, 20)))
            assert isinstance(shard, PairShard | ArmShard), shard
            if isinstance(shard, PairShard):
                pairs.append(shard)
            else:
                arms.append(shard.document)
        return pairs, arms

    def total(self, arms: list[Any], arm: str, field: str) -> int:
        return sum(getattr(getattr(one.arms, arm), field) for one in arms)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    host = Host(monkeypatch, tmp_path)
    yield host
    if host.router is not None:
        host.router.finalize()


def test_each_request_of_a_batch_goes_to_its_own_side_and_a_user_stays_there(host: Host) -> None:
    host.start(weight=50.0)
    questions = [ask({"user": number % 10}, tokens=TOKENS) for number in range(40)]
    found = [score[0] for score in host.ask(*questions)]
    assert set(found) == {15, 1015}
    assert found[:10] * 4 == found


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 15), (100.0, 1015)])
def test_weights_of_0_and_100_are_exact(host: Host, weight: float, expected: float) -> None:
    host.start(weight=weight)
    assert set(host.users(60)) == {expected}


def test_who_is_with_the_canary_stays_there_as_its_weight_rises(host: Host) -> None:
    host.start(weight=20.0)
    first = host.users(60)
    write_route(host.folder, host.route(weight=60.0, step=8))
    second = host.users(60)
    assert {15, 1015} == set(first) == set(second)
    assert all(later == 1015 for before, later in zip(first, second, strict=True) if before == 1015)


def test_a_header_and_the_requests_id_are_keys_too(host: Host) -> None:
    host.start(weight=50.0, key="x-user")
    by_header = {host.ask(ask({"x-user": "ann"}, tokens=TOKENS))[0][0] for _ in range(10)}
    by_id = {host.ask(ask(name="request-1", tokens=TOKENS))[0][0] for _ in range(10)}
    by_chance = {host.ask(ask(tokens=TOKENS))[0][0] for _ in range(60)}
    assert (len(by_header), len(by_id), len(by_chance)) == (1, 1, 2)


def test_a_canary_that_fails_is_answered_for_by_production_and_its_failure_is_counted(host: Host) -> None:
    host.server.engines["next"] = refuse
    host.start(weight=100.0)
    assert set(host.users(5)) == {15}
    _, arms = host.seen()
    assert [host.total(arms, "canary", field) for field in ("requests", "errors", "users")] == [5, 5, 5]
    assert host.total(arms, "production", "requests") == 0
    assert host.server.total("enginegate_rollout_errors_total", arm="canary", kind="error") == 5
    assert host.server.total("enginegate_errors_total") == 0
    assert len([line for line in host.server.logged if "no kernel" in line]) == 1


def test_a_canary_of_smaller_plans_fails_what_it_cannot_take_and_production_answers(host: Host) -> None:
    host.start({"next": (1, 4)}, weight=100.0)
    assert set(host.users(3)) == {15}
    _, arms = host.seen()
    assert host.total(arms, "canary", "errors") == 3


def test_a_canary_with_other_buckets_answers(host: Host) -> None:
    host.start({"next": 8, "long": 32}, weight=100.0)
    assert set(host.users(3)) == {1015}
    assert [shapes["tokens"][1] for model, shapes in host.server.calls if model == "next"] == [8] * 3


def test_a_request_at_fault_fails_alone_and_on_no_arm(host: Host) -> None:
    host.start(weight=100.0)
    questions = [ask(tokens=np.ones((1, 600), np.int64)), ask({"user": 1}, tokens=TOKENS)]
    bad, good = host.router.execute(questions)
    assert "sequence is 600" in bad.error().message()
    assert good is None
    assert questions[1].later is not None
    assert questions[1].later.get(timeout=SOON_S).arrays()["score"] == [1015]


def test_a_canary_that_hangs_keeps_nobody_of_production_waiting_and_its_users_not_for_long(host: Host) -> None:
    released = threading.Event()
    host.server.engines["next"] = lambda feeds: released.wait() and off(feeds)
    host.start(weight=50.0, timeout_ms=50.0)
    questions = [ask({"user": number}, tokens=TOKENS) for number in range(20)]
    responses = host.router.execute(questions)
    assert {response.arrays()["score"][0] for response in responses if response is not None} == {15}
    late = [question for question, response in zip(questions, responses, strict=True) if response is None]
    assert late
    for question in late:
        assert question.later is not None
        assert question.later.get(timeout=SOON_S).arrays()["score"] == [15]
    released.set()
    _, arms = host.seen()
    assert host.total(arms, "canary", "timeouts") == len(late)
    assert all(question.later is not None and question.later.empty() for question in late)  # answered once


def test_a_server_that_cannot_be_answered_later_is_answered_in_order(host: Host) -> None:
    host.start(weight=50.0)
    questions = [Question(ask(tokens=TOKENS).inputs, json.dumps({"user": number})) for number in range(20)]
    responses = host.router.execute(questions)
    assert {response.arrays()["score"][0] for response in responses} == {15, 1015}


def test_a_canary_that_is_not_loaded_costs_its_users_nothing_and_is_not_counted_as_failing(host: Host) -> None:
    del host.server.engines["next"]
    host.start(weight=100.0, mirror=1.0)
    assert set(host.users(3)) == {15}
    _, arms = host.seen()
    assert host.total(arms, "canary", "requests") == 0
    assert host.server.total("enginegate_rollout_absent_total") == 3


def wait_for(host: Host, name: str, number: float) -> None:
    def came() -> bool:
        host.tell()
        return host.server.total(f"enginegate_rollout_{name}") >= number

    until(came)


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(SOON_S / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("did not come")


def test_pairs_hold_both_answers_and_are_read_by_the_judges_side(host: Host) -> None:
    host.start()
    host.warm()
    route = host.route(mirror=1.0, slices=["language"], keep_inputs=["tokens"])
    write_route(host.folder, route)
    for number in range(6):
        host.ask(ask({"user": number, "language": "de"}, tokens=np.tile(TOKENS, (2, 1))))
    wait_for(host, "mirrored_total", 6)
    (shard,), arms = host.seen()
    assert shard.production["score"].tolist() == [15] * 12
    assert shard.canary["score"].tolist() == [1015] * 12
    assert shard.inputs["tokens"].shape == (12, 5)
    assert set(shard.slices["language"].tolist()) == {"de"}
    assert len(set(shard.columns["request"].tolist())) == len(set(shard.columns["key"].tolist())) == 6
    assert set(shard.columns["step"].tolist()) == {7}
    assert (host.total(arms, "canary", "warm_up"), host.total(arms, "production", "requests")) == (COLD, 6)


def test_inputs_are_kept_only_where_they_may_be(host: Host) -> None:
    host.start()
    host.warm()
    write_route(host.folder, host.route(mirror=1.0))
    host.users(1)
    wait_for(host, "mirrored_total", 1)
    (shard,), _ = host.seen()
    assert shard.inputs == {}


def test_production_is_asked_twice_for_the_noise(host: Host) -> None:
    host.start(noise=1.0)
    host.users(4)
    wait_for(host, "mirrored_total", 4)
    (shard,), _ = host.seen()
    assert shard.columns["noise"].all()
    assert shard.production["score"].tolist() == shard.canary["score"].tolist() == [15] * 4


def test_the_share_that_is_mirrored_is_near_what_was_asked_for(host: Host) -> None:
    host.start(mirror=0.2)
    host.users(1000)
    _, arms = host.seen()
    mirrored = sum(model == "next" for model, _ in host.server.calls)
    assert 130 < mirrored + sum(one.lost_pairs for one in arms) < 270


def test_a_call_is_mirrored_whole_so_that_latencies_compare(host: Host) -> None:
    host.start(mirror=1.0)
    host.ask(*[ask({"user": number}, tokens=TOKENS) for number in range(5)])
    until(lambda: len(host.server.calls) == 2)
    assert host.server.calls == [("one", {"tokens": (5, 5)}), ("next", {"tokens": (5, 5)})]


@pytest.mark.parametrize("engine", [refuse, lambda _: {"score": np.zeros((1, 7), np.float32)}])
def test_a_mirrored_request_that_the_canary_fails_is_a_pair_that_failed(
    host: Host, engine: Callable[[Arrays], Arrays]
) -> None:
    host.server.engines["next"] = engine
    host.start(mirror=1.0)
    assert set(host.users(3)) == {15}
    wait_for(host, "mirrored_total", 3)
    (shard,), _ = host.seen()
    assert shard.columns["failed"].tolist() == ["error"] * 3
    assert shard.canary["score"].tolist() == [0] * 3
    assert shard.production["score"].tolist() == [15] * 3


def test_a_mirrored_canary_that_hangs_is_late_at_first_and_then_without_a_call(host: Host) -> None:
    released = threading.Event()
    host.server.engines["next"] = lambda feeds: released.wait() and off(feeds)
    host.start(mirror=1.0, timeout_ms=30.0)
    for number in range(6):
        host.users(1)
        wait_for(host, "mirrored_total", number + 1)
    hanging = sum(model == "next" for model, _ in host.server.calls)
    released.set()
    shards, _ = host.seen()
    assert [failed for shard in shards for failed in shard.columns["failed"].tolist()] == ["timeout"] * 6
    assert hanging == 4


def test_more_than_can_be_mirrored_is_counted_as_lost(host: Host) -> None:
    released = threading.Event()
    host.server.engines["next"] = lambda feeds: released.wait() and off(feeds)
    host.start(mirror=1.0)
    assert set(host.users(60)) == {15}
    host.tell()
    lost = host.server.total("enginegate_rollout_lost_pairs_total")
    assert lost >= 60 - 32 - 1
    released.set()
    _, arms = host.seen()
    assert sum(one.lost_pairs for one in arms) >= lost


def test_the_end_of_a_rollout_takes_everybody_back_and_writes_what_was_seen(host: Host) -> None:
    host.start(weight=100.0)
    host.users(COLD + 2)
    write_route(host.folder, BASE)
    assert set(host.users(5)) == {15}
    _, arms = host.seen()
    assert host.total(arms, "canary", "requests") == 2
    assert host.total(arms, "production", "requests") == 0
    assert host.server.total("enginegate_rollout_step") == 0


@pytest.mark.parametrize("rollout", [{}, {"id": 1}, {"canary": None}, "damaged", 7])
def test_a_damaged_rollout_leaves_production_to_everybody(host: Host, rollout: object) -> None:
    host.start(weight=100.0)
    write_route(host.folder, {**BASE, "rollout": rollout})
    assert set(host.users(5)) == {15}
    assert any("its rollout cannot be followed" in line for line in host.server.logged)


def test_errors_of_production_are_counted_on_its_arm(host: Host) -> None:
    host.server.engines["one"] = refuse
    host.start()
    (response,) = host.router.execute([ask({"user": 1}, tokens=TOKENS)])
    assert "no kernel" in response.error().message()
    _, arms = host.seen()
    assert host.total(arms, "production", "errors") == 1


def test_the_warm_up_goes_to_production_and_is_counted_apart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up = [{"name": "a", "batch_size": 2}]
    host.router = start_router(monkeypatch, host.folder, host.server, host.route(weight=100.0), model_warmup=warm_up)
    assert host.ask(ask(tokens=TOKENS), ask(tokens=TOKENS)) == [[15], [15]]
    assert host.users(1) == [1015]
    _, arms = host.seen()
    assert host.total(arms, "production", "warm_up") == 2


def test_what_the_canary_answers_is_sampled_too(host: Host, tmp_path: Path) -> None:
    sampling = {"folder": str(tmp_path / "traffic"), "rate": 1.0, "most_a_day": 10, "retention_days": 7}
    host.start(weight=100.0)
    write_route(host.folder, {**host.route(weight=100.0), "sampling": sampling})
    host.users(3)
    host.seen()
    (shard,) = (tmp_path / "traffic").rglob("*.npz")
    with np.load(shard) as found:
        assert len(found["tokens"]) == 3


def test_a_folder_that_cannot_be_written_fails_no_request_and_is_counted(host: Host) -> None:
    host.evidence.write_text("a file where the folder should be")
    host.start(weight=50.0, mirror=1.0, shard_s=0.01)
    for _ in range(50):
        assert set(host.users(20)) == {15, 1015}
        host.tell()
        if host.server.total("enginegate_rollout_writing_errors_total"):
            break
    assert host.server.total("enginegate_rollout_writing_errors_total") >= 1
