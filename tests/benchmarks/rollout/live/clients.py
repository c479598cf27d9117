"""Users who ask at a fixed rate, each under a key of their own, and know what every engine would answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.rollout.live.engines import SHARE_OF_SLICE, SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    Array = np.ndarray[Any, Any]

RATE, USERS, THREADS = 50, 20_000, 8
LIMIT_S = 10
NEAR = 1e-5
OTHERS = ("en", "de", "fr")


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (seconds since the clients began), by whom, and whose answer came.

    `by` names the engines that would have answered so, is empty for an answer of none, and `failed` says why none came.
    """

    at: float
    user: int
    language: str
    by: tuple[str, ...]
    ms: float
    failed: str = ""


class Clients:
    """Asks the model `tiny` at a port, until it is left; late requests are sent at once, and none is left out."""

    def __init__(self, port: int, engines: Mapping[str, Callable[[Array], Array]], seed: int = 0) -> None:
        self._port, self.engines, self._seed = port, dict(engines), seed
        self.answers: list[Answer] = []
        self.began = time.monotonic()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def now(self) -> float:
        """Seconds since they began."""
        return time.monotonic() - self.began

    def _ask(self, number: int) -> None:
        random = np.random.default_rng([self._seed, number])
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        turn = number
        while not self._stopped.wait(max(0.0, turn / RATE - self.now)):
            turn += THREADS
            user = int(random.integers(USERS))
            sent = self.now
            language, features = _of_user(user, random)
            try:
                found = _infer(connection, user, language, features)
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                answer = Answer(sent, user, language, (), 1000 * (self.now - sent), f"{type(error).__name__}: {error}")
            else:
                by = tuple(
                    name
                    for name, expected in self.engines.items()
                    if abs(float(expected(features[None])[0]) - found) < NEAR
                )
                answer = Answer(sent, user, language, by, 1000 * (self.now - sent))
            self.answers.append(answer)


def _of_user(user: int, random: np.random.Generator) -> tuple[str, Array]:
    is_of_slice = user % 100 < 100 * SHARE_OF_SLICE
    features = random.standard_normal(4).astype(np.float32)
    features[3] = 3 + 0.2 * features[3] if is_of_slice else min(float(features[3]), 1.5)
    return (SLICE if is_of_slice else OTHERS[user % len(OTHERS)]), features


def _infer(connection: http.client.HTTPConnection, user: int, language: str, features: Array) -> float:
    body = {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 4], "data": features.tolist()}],
        "parameters": {"user": f"user-{user}", "language": language},
    }
    connection.request("POST", "/v2/models/tiny/infer", json.dumps(body).encode())
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(content[:200].decode(errors="replace"))
    return float(json.loads(content)["outputs"][0]["data"][0])
