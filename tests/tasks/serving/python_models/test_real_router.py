"""The router in a real Triton."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.serving.triton_api import TritonApi
from tests.real_triton import Client, route_of, served, with_canary, write_engine, write_route, write_router

if TYPE_CHECKING:
    from pathlib import Path

CANARY, HANGING = "scorer--0-22222222", "scorer--0-33333333"
SMALL, LARGE, NEXT = (f"scorer--{name}" for name in ("1-00000000--8", "1-00000000--32", "2-11111111"))
CONFIG = """
dynamic_batching { max_queue_delay_microseconds: 20000 }
model_warmup [{
  name: "a" batch_size: 1
  inputs { key: "tokens" value: { data_type: TYPE_INT64 dims: [8] zero_data: true } }
}]
"""


def test_batches_buckets_switches_metrics_and_samples_in_the_real_server(tmp_path: Path) -> None:
    repository, traffic = tmp_path / "repository", tmp_path / "traffic"
    sampling = {"folder": str(traffic), "rate": 1.0, "most_a_day": 100, "retention_days": 7, "slices": ["level"]}
    for name, plus in ((SMALL, 0), (LARGE, 0), (NEXT, 1000)):
        write_engine(repository, name, plus)
    write_router(repository, route_of(1, {SMALL: 8, LARGE: 32}, sampling), count=2, more=CONFIG)
    with served(repository, [SMALL, LARGE, NEXT]) as (client, metrics):
        # Last: a warm-up that calls an engine while the server starts ends Triton 2.51.
        client.ask("/v2/repository/models/scorer/load", {})
        assert client.score("scorer", [[1, 2, 3], [4, 5, 6]], level="b1") == [6, 15]
        assert client.score("scorer", [[1] * 20], level="b2") == [20]
        with pytest.raises(RuntimeError, match="sequence is 33, and model scorer takes 1 to 32"):
            client.score("scorer", [[1] * 33])
        assert ask_at_once(client, 12) == [sum(range(number + 1)) for number in range(12)]
        write_route(repository / "scorer", route_of(2, {NEXT: (1, 32)}, sampling))
        assert client.score("scorer", [[1, 2, 3]]) == [1006]
        client.ask(f"/v2/repository/models/{NEXT}/unload", {})
        with pytest.raises(RuntimeError, match=NEXT):
            client.score("scorer", [[1, 2, 3]])
        time.sleep(1.1)  # counts are told once a second, by the instance that is asked
        ask_until_refused_by_both(client)
        text = metrics.ask("/metrics")[1].decode()
        client.ask("/v2/repository/models/scorer/unload", {})
        found = wait_for_samples(traffic, 2 + 1 + 12 + 1)  # neither the warm-up nor what was refused
    assert 'enginegate_route_move{model="scorer"} 2' in text
    for what in ("requests", "calls", "elements", "padding", "errors", "sampled"):
        assert f"\nenginegate_{what}_total{{" in text
    assert {value for arrays in found for value in arrays["slice.level"]} == {"b1", "b2", "missing"}


@pytest.mark.hardship(only=True)
def test_a_splitter_before_the_server_chooses_by_a_header_that_is_forwarded(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_engine(repository, SMALL)
    write_engine(repository, CANARY, 1000)
    plans = {SMALL: (1, 32)}
    route = with_canary(
        route_of(1, plans), tmp_path / "evidence", {CANARY: (1, 32)}, weight=5.0, arm="x-enginegate-arm"
    )
    write_router(repository, route)
    forward = ["--http-header-forward-pattern=(?i)x-(user|enginegate-arm)"]  # as docs/rollouts-elsewhere.md has it
    with served(repository, [SMALL, CANARY, "scorer"], forward) as (client, _):
        found = {arm: [score_as(client, arm) for _ in range(20)] for arm in ("canary", "production", None)}
    assert found == {"canary": [1006.0] * 20, "production": [6.0] * 20, None: [6.0] * 20}


def score_as(client: Client, arm: str | None) -> float:
    """The score of [1, 2, 3] for a request with that header."""
    body = {"inputs": [{"name": "tokens", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}]}
    connection = http.client.HTTPConnection("127.0.0.1", client.port)
    headers = {} if arm is None else {"x-enginegate-arm": arm}
    connection.request("POST", "/v2/models/scorer/infer", json.dumps(body), headers)
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return float(found["outputs"][0]["data"][0])


def ask_at_once(client: Client, count: int) -> list[float]:
    found = [0.0] * count

    def one(number: int) -> None:
        found[number] = Client(client.port).score("scorer", [list(range(number + 1))])[0]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ask_until_refused_by_both(client: Client) -> None:
    for _ in range(8):
        with pytest.raises(RuntimeError):
            client.score("scorer", [[1, 2, 3]])


def wait_for_samples(folder: Path, count: int) -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = [dict(np.load(path)) for path in folder.rglob("*.npz")]
        if sum(len(arrays["tokens"]) for arrays in found) >= count:
            break
        time.sleep(0.1)
    assert sum(len(arrays["tokens"]) for arrays in found) == count
    return found


def test_a_rollout_in_the_real_server_splits_mirrors_and_outlives_a_canary_that_hangs(tmp_path: Path) -> None:
    repository, evidence = tmp_path / "repository", tmp_path / "evidence"
    write_engine(repository, NEXT)
    write_engine(repository, CANARY, 1000)
    write_engine(repository, HANGING, more="time.sleep(1.5)")
    base = route_of(2, {NEXT: (1, 32)})
    write_router(repository, base, count=2, more="dynamic_batching { max_queue_delay_microseconds: 2000 }")

    def follow(canary: str, **changes: Any) -> None:
        write_route(repository / "scorer", with_canary(base, evidence, {canary: (1, 32)}, **changes))

    with served(repository, [NEXT, CANARY, HANGING, "scorer"]) as (client, metrics):
        follow(CANARY, weight=50.0)
        first = ask_as_users(client, 40)
        assert {15, 1015} == set(first.values())
        follow(CANARY, weight=100.0)
        assert set(ask_as_users(client, 40).values()) == {1015}
        follow(CANARY, weight=50.0, step=8)
        assert ask_as_users(client, 40) == first
        follow(CANARY, mirror=1.0, noise=0.5)
        assert set(ask_as_users(client, 40).values()) == {15}
        follow(HANGING, weight=50.0, mirror=1.0, timeout_ms=100.0)
        assert set(ask_as_users(client, 40).values()) == {15}
        write_route(repository / "scorer", base)
        assert set(ask_as_users(client, 40).values()) == {15}
        time.sleep(1.1)  # counts are told once a second
        ask_as_users(client, 4)
        text = metrics.ask("/metrics")[1].decode()
        api = TritonApi(f"http://127.0.0.1:{client.port}")
        api.unload("scorer")  # waits for no call that hangs; what was seen is written when the last came back
        rows = wait_for_pairs(evidence, 40)
    assert {float(row) for row in rows["canary.score"]} == {15, 1015, 0}
    assert set(rows["failed"].tolist()) == {"", "timeout"}
    for words in ('errors_total{arm="canary",kind="timeout"', "mirrored_total{arm=", "step{model="):
        assert f"enginegate_rollout_{words}" in text


def ask_as_users(client: Client, users: int) -> dict[int, float]:
    """One request of each user, all at once."""
    found: dict[int, float] = {}

    def one(user: int) -> None:
        found[user] = Client(client.port).score("scorer", [[1, 2, 3, 4, 5]], user=f"user {user}")[0]

    threads = [threading.Thread(target=one, args=(user,)) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == users
    return found


def wait_for_pairs(folder: Path, least: int) -> dict[str, np.ndarray[Any, Any]]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        shards = [dict(np.load(path)) for path in folder.glob("[0-9]*.npz")]
        rows = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]} if shards else {}
        if shards and len(rows["time"]) >= least and {"", "timeout"} <= set(rows["failed"].tolist()):
            return rows
        time.sleep(0.1)
    raise AssertionError("the pairs did not come")
