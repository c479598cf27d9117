"""Rollouts at a real Triton server: a host that follows, clients that ask, and the judge's side that reads."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tasks.objects.folder import LocalObjects
from tasks.release.evidence_upload import EvidenceUpload
from tasks.release.follow_rollout import RolloutFollower
from tasks.release.triton_switch import TritonSwitch
from tasks.rollout import transitions
from tasks.rollout.shards import ArmShard, PairShard, read_shard
from tasks.rollout_spec import RolloutPlan
from tests.hardship import numbers
from tests.tasks.release.rollout_host import CANARY, ID, ROLLOUT, RolloutHost
from tests.tasks.release.test_triton_server import FEATURES, running_server
from tests.tasks.serving_host import SQUARED, THIRD, Shop
from tests.tasks.tiny import score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from tasks.serving.triton_api import TritonApi

SOON_S = 60
PLAN = RolloutPlan(steps=("shadow", 25.0, 100.0), key="user", mirror=1.0, noise=0.5)


class Users:
    """Clients who ask without a pause, each under a name; every answer must be the scorer's."""

    def __init__(self, url: str, users: int = 4) -> None:
        self._port = urlsplit(url).port
        self.answers, self.failures = 0, list[str]()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(users)]

    def _ask(self, user: int) -> None:
        expected = float(score(FEATURES)[0])
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": FEATURES[0].tolist()}
        connection = http.client.HTTPConnection("127.0.0.1", self._port or 0, timeout=SOON_S)
        asked = 0
        while not self._stopped.is_set():
            asked += 1
            body = {"inputs": [tensor], "parameters": {"user": f"user {user} {asked % 50}"}}
            connection.request("POST", "/v2/models/tiny/infer", json.dumps(body).encode())
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != http.HTTPStatus.OK or abs(found["outputs"][0]["data"][0] - expected) > 1e-5:
                self.failures.append(str(found))
            self.answers += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def host(tmp_path: Path) -> RolloutHost:
    return RolloutHost(Shop(tmp_path, LocalObjects(tmp_path / "registry")))


def serve(host: RolloutHost, api: TritonApi) -> Callable[[], Any]:
    """Serve production at a real server; what looks at the rollout, and uploads."""
    switch = TritonSwitch(host.repository, api, grace_s=0.5)
    host.shop.pull(folder=switch.folder, service=switch)
    follower = RolloutFollower(switch, ROLLOUT, SOON_S)
    upload = EvidenceUpload(follower.evidence, ROLLOUT, "host-1")

    def look() -> Any:
        found = follower.look(host.shop.registry)
        upload.run(host.shop.objects)
        return found

    return look


def until(holds: Callable[[], bool]) -> None:
    last = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < last
        time.sleep(0.05)


def evidence(host: RolloutHost) -> tuple[list[PairShard], list[Any]]:
    keys = [entry.key for entry in host.shop.objects.list(ROLLOUT.shards(ID))]
    found = [read_shard(host.shop.objects, key, ["score"], set(range(1, 99))) for key in keys]
    assert all(isinstance(one, PairShard | ArmShard) for one in found), found
    pairs = [one for one in found if isinstance(one, PairShard)]
    return pairs, [one.document for one in found if isinstance(one, ArmShard)]


def test_a_good_canary_goes_in_up_and_out_under_load_and_no_request_fails(host: RolloutHost) -> None:
    with running_server(host.repository.root) as api:
        look = serve(host, api)
        with Users(api.url) as users:
            host.start(PLAN)
            assert look().changed
            for weight in (25.0, 100.0):
                so_far = users.answers
                until(lambda so_far=so_far: users.answers > so_far + 200)
                host.step(transitions.advance)
                assert look().weight == weight
            so_far = users.answers
            until(lambda: users.answers > so_far + 200)
            host.step(transitions.roll_back)
            assert look().changed
            so_far = users.answers
            until(lambda: users.answers > so_far + 50)
        assert users.failures == []
        assert {state.name for state in api.index() if state.state == "READY"} == {"tiny", *host.repository.engines()}
        until(lambda: bool(look() and evidence(host)[1]))
    pairs, arms = evidence(host)
    assert {float(abs(shard.production["score"] - shard.canary["score"]).max()) for shard in pairs} == {0.0}
    assert {step for shard in pairs for step in shard.columns["step"].tolist()} == {1, 2}
    assert sum(one.arms.canary.requests for one in arms) > 200
    assert sum(one.arms.canary.errors + one.arms.canary.timeouts for one in arms) == 0


@pytest.mark.hardship(only=True)
def test_a_canary_that_computes_something_else_here_never_answers_anybody(host: RolloutHost) -> None:
    host.canary = host.shop.publish(THIRD, plan=host.shop.onnx_plan(SQUARED))  # with the scorer's smoke samples
    host.shop.promote(host.canary.cell, address=CANARY)
    with running_server(host.repository.root) as api:
        look = serve(host, api)
        with Users(api.url) as users:
            host.start(PLAN)
            assert look().crashed
            until(lambda: users.answers > 50)
        assert users.failures == []
        look()
    (document,) = evidence(host)[1]
    assert "does not do on the server what it did" in document.arms.canary.crashed


@pytest.fixture
def watching(host: RolloutHost) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts watches in processes of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "flows.commands.cli", "pull", "tiny", "--target", "cpu", "--to",
            str(host.repository.root), "--layout", "triton", "--server", url, "--watch", "--every", "1",
            "--host-name", "host-1",
        ]  # fmt: skip
        log = (host.shop.root / "watch.log").open("ab")
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.hardship(only=True)
def test_a_watch_that_is_killed_at_random_follows_on_and_no_request_fails(
    host: RolloutHost, watching: Callable[[str], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again while steps are made; at the end the host is where the last step says."""
    monkeypatch.setenv("ENGINEGATE_REGISTRY", str(host.shop.root / "registry"))
    chance, led = random.Random(0), 0  # noqa: S311 - a test's
    with running_server(host.repository.root) as api:
        serve(host, api)
        with Users(api.url) as users:
            for turn in range(numbers().kills["local"]):
                if host.shop.registry.rollouts.read(ROLLOUT).open_rollout is None:
                    host.start(PLAN, rollout_id=f"{turn:012x}")
                else:
                    host.step(transitions.advance if chance.random() < 0.5 and turn % 3 else transitions.roll_back)
                watch = watching(api.url)
                time.sleep(chance.uniform(1.5, 6))
                watch.send_signal(signal.SIGKILL)
                watch.wait()
                rollout = host.route.rollout
                led += rollout is not None
                assert rollout is None or rollout.step <= len(host.shop.registry.rollouts.read(ROLLOUT).steps)
            watching(api.url)
            wanted = host.shop.registry.rollouts.read(ROLLOUT).open_rollout
            until(lambda: (host.route.rollout and host.route.rollout.weight) == (wanted and wanted.weight))
        assert users.failures == []
    assert led
