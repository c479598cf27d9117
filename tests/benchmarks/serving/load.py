"""Asks a model that Triton serves for one sample a request, by HTTP, from more and more clients at once.

    python tests/benchmarks/serving/load.py URL MODEL FEEDS.npz [--at-most MS] [--seconds S]

Prints requests a second, p50 and p99 in milliseconds and failures at each number of clients, until p99 is beyond
`--at-most` twice; and as its last line, in JSON, the most requests a second within it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CLIENTS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
WARM_UP_S = 1.0
MOST_PROCESSES = 12
DATATYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}
ANSWER_S = 60


@dataclass(frozen=True)
class Row:
    """What so many clients saw, each of which asks again as soon as it is answered."""

    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def body_of(feeds: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, int]:
    """A request of KServe's protocol with binary tensors, and the length of its JSON."""
    tensors = [
        {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in feeds.items()
    ]
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return header + b"".join(np.ascontiguousarray(array).tobytes() for array in feeds.values()), len(header)


def ask(url: str, model: str, bodies: Sequence[tuple[bytes, int]], until: float, first: int) -> Iterator[float]:
    """Ask one request after another; milliseconds of each, NaN where it failed."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=ANSWER_S)
    number = first
    while time.monotonic() < until:
        content, length = bodies[number % len(bodies)]
        number += 1
        started = time.perf_counter()
        try:
            headers = {"Inference-Header-Content-Length": str(length)}
            connection.request("POST", f"/v2/models/{model}/infer", content, headers)
            answer = connection.getresponse()
            answer.read()
            good = answer.status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            connection.close()
            good = False
        yield 1000 * (time.perf_counter() - started) if good else float("nan")


def run_clients(
    url: str, model: str, bodies: Sequence[tuple[bytes, int]], clients: int, seconds: float, queue: Any
) -> None:
    """In a process of its own: `clients` threads that ask, and what they saw after the warm-up."""
    begin = time.monotonic() + WARM_UP_S
    found: list[tuple[float, float]] = []

    def client(first: int) -> None:
        found.extend((time.monotonic(), time_ms) for time_ms in ask(url, model, bodies, begin + seconds, first))

    threads = [threading.Thread(target=client, args=(17 * number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.put([time_ms for at, time_ms in found if begin <= at <= begin + seconds])


def level(url: str, model: str, bodies: Sequence[tuple[bytes, int]], clients: int, seconds: float) -> Row:
    """Ask with so many clients."""
    processes = min(clients, MOST_PROCESSES)
    shares = [clients // processes + (number < clients % processes) for number in range(processes)]
    queue: Any = multiprocessing.Queue()
    started = [
        multiprocessing.Process(target=run_clients, args=(url, model, bodies, share, seconds, queue))
        for share in shares
    ]
    for process in started:
        process.start()
    times = np.array([time_ms for _ in started for time_ms in queue.get()])
    for process in started:
        process.join()
    good = times[~np.isnan(times)]
    p50, p99 = (float(np.percentile(good, q)) if len(good) else float("nan") for q in (50, 99))
    return Row(clients, len(good) / seconds, p50, p99, int(np.isnan(times).sum()))


def main() -> None:
    """Ask at each number of clients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("feeds")
    parser.add_argument("--at-most", type=float, default=100.0, metavar="MS")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with np.load(options.feeds) as file:
        arrays = {name: file[name] for name in file.files}
    samples = len(next(iter(arrays.values())))
    bodies = [body_of({name: array[row : row + 1] for name, array in arrays.items()}) for row in range(samples)]
    rows: list[Row] = []
    for clients in CLIENTS:
        row = level(options.url, options.model, bodies, clients, options.seconds)
        rows.append(row)
        print(
            f"{clients:5} clients {row.requests_per_s:9.1f} requests/s {row.p50_ms:9.2f} p50 {row.p99_ms:9.2f} p99"
            f" {row.failed:5} failed",
            flush=True,
        )
        if len(rows) > 1 and all(not one.p99_ms <= options.at_most for one in rows[-2:]):
            break
    within = [row for row in rows if row.p99_ms <= options.at_most and not row.failed]
    best = max(within, key=lambda row: row.requests_per_s, default=None)
    print(json.dumps({"model": options.model, "best": None if best is None else asdict(best)}))


if __name__ == "__main__":
    main()
