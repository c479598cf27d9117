"""The router in a real Triton."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.real_triton import Client, route_of, served, write_engine, write_route, write_router

if TYPE_CHECKING:
    from pathlib import Path

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
