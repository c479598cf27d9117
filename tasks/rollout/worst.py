"""The pairs in which the canary was furthest from production: what people look at first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import printable

if TYPE_CHECKING:
    from tasks.rollout.shards import Array, PairShard

KEPT = 3


class WorstPairs:
    """Of each output the three pairs with the largest difference of any element."""

    def __init__(self) -> None:
        self._worst: dict[str, list[tuple[float, str]]] = {}

    def add(self, shard: PairShard, rows: Array) -> None:
        """Look at some rows of a shard; where the canary gave no answer, nothing differs."""
        chosen = np.flatnonzero(rows & (shard.columns["failed"] == ""))
        if not len(chosen):
            return
        for name, production in shard.production.items():
            ours = production[chosen].reshape(len(chosen), -1).astype(np.float64)
            theirs = shard.canary[name][chosen].reshape(len(chosen), -1).astype(np.float64)
            apart = np.abs(theirs - ours)
            apart[np.isnan(apart)] = np.inf
            at = apart.argmax(axis=1)
            largest = apart[np.arange(len(chosen)), at]
            for place in np.argsort(-largest, kind="stable")[:KEPT]:
                told = _told(shard, int(chosen[place]), name, ours[place, at[place]], theirs[place, at[place]])
                self._worst.setdefault(name, []).append((float(largest[place]), told))
        for name, found in self._worst.items():
            self._worst[name] = sorted(found, key=lambda one: -one[0])[:KEPT]

    @property
    def sentences(self) -> tuple[str, ...]:
        """One a pair, by output, the worst first."""
        return tuple(told for found in self._worst.values() for _, told in found)


def _told(shard: PairShard, row: int, name: str, production: float, canary: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(shard.columns["time"][row])))
    slices = "".join(f", {key}={values[row]}" for key, values in shard.slices.items())
    kept = f"; its inputs are row {row} of {shard.key}" if shard.inputs else ""
    request = str(shard.columns["request"][row])
    return printable(f"{name} {production:.4g} → {canary:.4g} at {when}{slices} (request {request}{kept})")
