"""What the router costs, and what mirroring costs production, on a real Triton.

Run, after `make triton`: python -m tests.benchmarks.router [REQUESTS] [REQUESTS OF THE SECOND PART]

First p50 and p99 of a request through the router, and of its plan asked directly. Then, in turns that alternate,
clients that ask production without a rollout, with 5 % mirrored, and with a canary that hangs: requests a second of
four clients that ask without a pause, and p50 of one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.real_triton import Client, route_of, served, with_canary, write_engine, write_route, write_router

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE = "scorer--1-00000000--engine"
CANARY, HANGING = "scorer--0-11111111", "scorer--0-22222222"
ROUNDS = 10
TURNS, CLIENTS = 12, 4
# A hundred times as much as a call of the plan takes: what a real engine computes, and what it leaves to others.
WORK = "time.sleep(0.004)"
TOKENS = [list(range(100))]


def times_ms(client: Client, model: str, tokens: Sequence[Sequence[int]], requests: int) -> list[float]:
    found = []
    for _ in range(requests):
        started = time.perf_counter()
        client.score(model, tokens)
        found.append(1000 * (time.perf_counter() - started))
    return found


def main(requests: int) -> None:
    """Measure both by turns, so that what else the machine does falls on both alike."""
    kinds = {"plan fits": (1, 128), "padded to 128": 128}
    print(f"{'':16}{'':10}{'p50 ms':>8}{'p99 ms':>8}   {requests} requests of [1, 100] int64, one after another")
    for what, extents in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder) / "repository"
            write_engine(repository, ENGINE)
            write_router(repository, route_of(1, {ENGINE: extents}))
            with served(repository, [ENGINE, "scorer"]) as (client, _):
                show(what, client, requests)


def show(what: str, client: Client, requests: int) -> None:
    """Print the rows of one kind of plan."""
    tokens = [list(range(100))]
    for model in (ENGINE, "scorer"):
        times_ms(client, model, tokens, 100)
    found: dict[str, list[float]] = {"direct": [], "router": []}
    for _ in range(ROUNDS):
        for name, model in (("direct", ENGINE), ("router", "scorer")):
            found[name] += times_ms(client, model, tokens, requests // ROUNDS)
    middle = {name: float(np.median(times)) for name, times in found.items()}
    for name, times in found.items():
        print(f"{what:16}{name:10}{middle[name]:8.3f}{np.percentile(times, 99):8.3f}")
    print(f"{what:16}{'cost':10}{middle['router'] - middle['direct']:8.3f}")


def measure_mirroring(requests: int) -> None:
    """Print what mirroring at 5 % and a canary that hangs cost production, for an engine of 4 ms and one of none."""
    print(f"\n{'engine':14}{'':21}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}   load {os.getloadavg()[0]:.1f}")
    for what, work in (("4 ms", WORK), ("next to none", "")):
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder) / "repository"
            write_engine(repository, ENGINE, more=work)
            write_engine(repository, CANARY, more=work)
            write_engine(repository, HANGING, more="time.sleep(100_000)")
            base = route_of(1, {ENGINE: (1, 128)})
            batching = "dynamic_batching { max_queue_delay_microseconds: 100 }"
            write_router(repository, base, count=2, more=batching)
            with served(repository, [ENGINE, CANARY, HANGING, "scorer"]) as (client, _):
                evidence = Path(folder) / "evidence"
                mirrored = {"mirror": 0.05, "shard_s": 5.0}
                routes = {
                    "no rollout": base,
                    "5 % mirrored": with_canary(base, evidence, {CANARY: (1, 128)}, **mirrored),
                    "and 1 % noise": with_canary(base, evidence, {CANARY: (1, 128)}, noise=0.01, **mirrored),
                    "a canary that hangs": with_canary(base, evidence, {HANGING: (1, 128)}, **mirrored),
                }
                show_mirroring(what, client, repository / "scorer", routes, requests)


def show_mirroring(
    what: str, client: Client, router: Path, routes: dict[str, dict[str, object]], requests: int
) -> None:
    """Print the rows of one engine: the median turn, so that what else the machine does falls on all alike."""
    rates: dict[str, list[float]] = {name: [] for name in routes}
    times: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(TURNS + 1):
        for name, route in routes.items():
            write_route(router, route)
            rate, alone = rate_of(client, requests // TURNS), times_ms(client, "scorer", TOKENS, requests // TURNS // 4)
            if turn:  # the first one warms up
                rates[name].append(rate)
                times[name] += alone
    best = float(np.median(rates["no rollout"]))
    for name in routes:
        rate, p50, p99 = np.median(rates[name]), *np.percentile(times[name], [50, 99])
        print(f"{what:14}{name:21}{rate:12.1f}{p50:9.3f}{p99:9.3f}   {100 * (rate / best - 1):+.1f} % of throughput")


def rate_of(client: Client, requests: int) -> float:
    """Requests a second of clients that ask at once, without a pause."""
    clients = [Client(client.port) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=times_ms, args=(one, "scorer", TOKENS, requests // CLIENTS)) for one in clients]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CLIENTS * (requests // CLIENTS) / (time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
    measure_mirroring(int(sys.argv[2]) if len(sys.argv) > 2 else 8_000)
