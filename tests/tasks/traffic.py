"""What serving hosts leave of a rollout, made up; and a judge of few words."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.rollout.conducting import Conductor
from tests.tasks.canary import BEGAN, ROLLOUT
from validation.rollout_records import Decision, JudgedRule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.tasks.canary import Canary
    from validation.rollout_records import ArmCounts, Pairs, RolloutRules

EDGES = [1.0, 2.0, 4.0, 8.0]


@dataclass
class JudgeStandIn:
    """Decides after `least` pairs, by the mean error alone."""

    rules: RolloutRules
    outputs: Mapping[str, Any]
    least: int = 20
    errors: list[float] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
    noise: int = 0
    counted: dict[str, int] = field(default_factory=dict)

    def add(self, pairs: Pairs) -> None:
        self.errors += np.abs(pairs.candidate["score"] - pairs.reference["score"]).tolist()
        self.groups |= set(pairs.groups.tolist())

    def add_noise(self, pairs: Pairs) -> None:
        self.noise += len(pairs.failed)

    def count(self, arm: str, counts: ArmCounts) -> None:
        self.counted[arm] = self.counted.get(arm, 0) + counts.requests

    def look(self) -> Decision:
        mean = float(np.mean(self.errors)) if self.errors else 0.0
        outcome = Outcome.FAIL if mean > 0.02 else Outcome.PASS
        if len(self.errors) < self.least:
            outcome = Outcome.INCONCLUSIVE
        sentence = f"score mae is {mean:.4f} on {len(self.groups)} groups: {outcome.value}."
        more = self.least - len(self.errors) if outcome is Outcome.INCONCLUSIVE else None
        judged = JudgedRule(
            name="score mae", outcome=outcome, value=mean, limit=0.02, groups=len(self.groups), needed_more=more,
            sentence=sentence,
        )  # fmt: skip
        return Decision(outcome=outcome, rules=(judged,), pairs=len(self.errors), groups=len(self.groups))


def pair_columns(n: int, *, step: int, error: float = 0.001, seed: int = 0, users: int | None = None) -> dict[str, Any]:
    """The columns of a shard of pairs whose canary is off by `error`."""
    rng = np.random.default_rng([seed, n, step])
    production = rng.random(n).astype(np.float32)
    keys = [f"{number % (users or n):016x}" for number in range(n)]
    return {
        "time": BEGAN.timestamp() + np.arange(n, dtype="f8"),
        "key": np.array(keys, "U16"),
        "request": np.array([f"{seed:08x}{number:08x}" for number in range(n)], "U16"),
        "step": np.full(n, step, "i4"),
        "noise": np.zeros(n, bool),
        "failed": np.full(n, "", "U7"),
        "latency.production": np.full(n, 2.0, "f4"),
        "latency.canary": np.full(n, 2.0, "f4"),
        "production.score": production,
        "canary.score": (production + np.float32(error)).astype(np.float32),
    }


def npz(columns: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def arms_document(step: int, *, production: int, canary: int, **changes: Any) -> dict[str, Any]:
    def arm(requests: int) -> dict[str, Any]:
        counts = [0, requests, 0, 0, 0]
        return {
            "requests": requests, "errors": 0, "timeouts": 0, "warm_up": 0, "users": requests,
            "latency_ms": {"edges": EDGES, "counts": counts},
        }  # fmt: skip

    arms = {"production": arm(production), "canary": arm(canary)}
    return {"schema_version": 1, "step": step, "from": 0.0, "to": 30.0, "arms": arms, "lost_pairs": 0, **changes}


class Traffic:
    """The hosts of a rollout; each call leaves a file more."""

    def __init__(self, shelf: Canary, first: int = 0) -> None:
        self.shelf, self._files = shelf, first

    def put(self, name: str, content: bytes, host: str = "host-1") -> str:
        key = f"{ROLLOUT.shards(self.shelf.state.id)}{host}/{name}"
        assert self.shelf.objects.create(key, content)
        return key

    def pairs(self, n: int = 40, *, error: float = 0.001, host: str = "host-1", **changes: Any) -> str:
        """Pairs of the step that is on."""
        self._files += 1
        columns = {**pair_columns(n, step=self.step, error=error, seed=self._files), **changes}
        return self.put(f"120000-a-{n}-{self._files:016x}.npz", npz(columns), host)

    def arms(self, *, production: int = 1000, canary: int = 50, **changes: Any) -> str:
        """Counts of the step that is on."""
        self._files += 1
        document = arms_document(self.step, production=production, canary=canary, **changes)
        return self.put(f"120000-a-arms-{self._files:016x}.json", json.dumps(document).encode())

    def flow(self, error: float = 0.001) -> None:
        """Enough of both for a step."""
        self.pairs(error=error)
        self.arms()

    @property
    def step(self) -> int:
        current = self.shelf.history.current
        assert current
        return current.number


def conductor(shelf: Canary, who: str = "judge") -> Conductor:
    """Somebody who conducts the shelf's rollout, and has seen nothing yet."""
    return Conductor(shelf.registry, ROLLOUT, JudgeStandIn, who=who, context=shelf.context, rejected=shelf.rejected)
