"""What the router costs: p50 and p99 of a request through it, and of its plan asked directly, on a real Triton.

Run, after `make triton`: python -m tests.benchmarks.router [REQUESTS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.real_triton import Client, route_of, served, write_engine, write_router

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE = "scorer--1-00000000--engine"
ROUNDS = 10


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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
