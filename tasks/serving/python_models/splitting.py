"""Which requests of a rollout its canary answers, as `rollout` of `route.json` says.

A key always lies at the same place between 0 and 1, so that a user who is with the canary at 1 % stays there at 5 %.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.serving.python_models import routing

CANARY_ARM = "canary"
_ALL = 1 << 64
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Asker:
    """Who asked: the place of the key in 64 bits, its hash (empty where there is no key), and its parameters."""

    place: int
    key: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Rollout:
    """A rollout as this router follows it. `weight` is in percent, `mirror` and `noise` are shares of 1.

    `canary` is the route to its engine. `arm` is the parameter by which a splitter outside says which side answers,
    `canary` or another word; None where this router splits. A call may take `timeout_s`; `folder` is where evidence
    goes, every `shard_s` seconds, with the inputs named in `keep_inputs` alone.
    """

    id: str
    step: int
    weight: float
    mirror: float
    noise: float
    key: str | None
    slices: tuple[str, ...]
    folder: Path
    shard_s: float
    timeout_s: float
    keep_inputs: frozenset[str]
    canary: routing.Route
    arm: str | None = None

    @classmethod
    def of_route(cls, route: routing.Route) -> Rollout | None:
        """That of a route; None where there is none.

        Raises:
            KeyError, ValueError, TypeError: it is not as `route.json` has it.
        """
        found = route.rollout
        if found is None:
            return None
        return cls(
            id=found["id"],
            step=int(found["step"]),
            weight=float(found["weight"]),
            mirror=float(found["mirror"]),
            noise=float(found["noise"]),
            key=found["key"],
            slices=tuple(found["slices"]),
            folder=Path(found["folder"]),
            shard_s=float(found["shard_s"]),
            timeout_s=found["timeout_ms"] / 1000,
            keep_inputs=frozenset(found["keep_inputs"]),
            canary=route.to(found["canary"]),
            arm=found.get("arm"),
        )

    def asker(self, request: Any) -> Asker:
        """Who sends a request of Triton's: the parameter or header `key`, else the request's id, else chance."""
        parameters = json.loads(request.parameters() or "{}") if self.key or self.slices or self.arm else {}
        named = parameters.get(self.key) if self.key else None
        key = request.request_id() if named is None else str(named)
        if not key:
            return Asker(_RANDOM.getrandbits(64), "", parameters)
        digest = hashlib.blake2b(f"{self.id}\0{key}".encode(errors="surrogatepass"), digest_size=8)
        return Asker(int.from_bytes(digest.digest(), "big"), digest.hexdigest(), parameters)

    def takes(self, asker: Asker) -> bool:
        """Whether the canary answers: nobody at a weight of 0, and everybody at 100, whoever splits."""
        if self.arm is not None and 0 < self.weight < 100:  # noqa: PLR2004 - percent
            return bool(asker.parameters.get(self.arm) == CANARY_ARM)
        return asker.place / _ALL < self.weight / 100 or self.weight >= 100  # noqa: PLR2004 - percent
