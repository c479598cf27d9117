"""Bounds of a quantile and of a share that hold at all times together, from counts that only grow.

Of a quantile, how many values lie below it is a binomial count, whatever the values are; of a share it is what is
counted. Either stays, with probability 1 - alpha, for ever within what a beta mixture of binomials cannot refute
(Robbins 1970, Ann. Math. Stat. 41; Howard and Ramdas 2022, Bernoulli 28).
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from validation.units import Floats

Counts = NDArray[np.int64]
EDGES: Floats = np.asarray(0.01 * 1.05 ** np.arange(341), dtype=np.float64)
"""Of latencies, in milliseconds: 0.01 ms to 160 s, 5 % apart."""
_WEIGHT = 100.0
"""Of the mixture, in values: it is the sharpest after so many."""
_STEPS = 60


class LatencyCounts:
    """Latencies, counted between `EDGES`: first those up to the first edge, last those beyond."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(len(EDGES) + 1, dtype=np.int64)

    @property
    def n(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    def add(self, latencies_ms: Floats) -> None:
        """Count latencies, `[n]`; infinity is one that never ended."""
        places = np.searchsorted(EDGES, np.asarray(latencies_ms, dtype=np.float64), side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))

    def add_counts(self, edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
        """Add a histogram of `len(edges) + 1` counts; each goes to the end of its bin."""
        ends = np.array([*edges, np.inf])
        np.add.at(
            self._counts, np.searchsorted(EDGES, ends * (1 - 1e-9), side="left"), np.array(counts, dtype=np.int64)
        )

    def bounds(self, q: float, alpha: float) -> tuple[float, float]:
        """Bounds in ms of the quantile `q`, each right for ever with probability 1 - alpha."""
        n = self.n
        if n == 0:
            return 0.0, float("inf")
        up_to = np.cumsum(self._counts[:-1])  # how many lie at or below each edge
        refuted = _log_ratio(up_to, n, q) >= log(1 / alpha)
        below, above = EDGES[refuted & (up_to < q * n)], EDGES[refuted & (up_to > q * n)]
        return (float(below[-1]) if len(below) else 0.0), (float(above[0]) if len(above) else float("inf"))


def share_bounds(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Bounds of a share of which `count` of `n` were seen, each right for ever with probability 1 - alpha."""
    if n == 0:
        return 0.0, 1.0
    seen = count / n

    def edge(inside: float, outside: float) -> float:
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            refuted = _log_ratio_flat(count, n, middle) >= log(1 / alpha)
            inside, outside = (inside, middle) if refuted else (middle, outside)
        return outside

    return edge(seen, 0.0), edge(seen, 1.0)


def _log_ratio(counts: Counts, n: int, q: float) -> Floats:
    """How much likelier `counts` of n are under the mixture around q than under q, as a logarithm."""
    from scipy.special import betaln  # noqa: PLC0415 - 0.15 s, which reading a manifest need not take

    a, b = q * _WEIGHT, (1 - q) * _WEIGHT
    mixed = betaln(counts + a, n - counts + b) - betaln(a, b)
    return np.asarray(mixed - counts * np.log(q) - (n - counts) * np.log1p(-q))


def _log_ratio_flat(count: int, n: int, share: float) -> float:
    """The same of one count against a share, under Jeffreys' mixture, which knows nothing of it."""
    from scipy.special import betaln, xlog1py, xlogy  # noqa: PLC0415 - as above

    mixed = betaln(count + 0.5, n - count + 0.5) - betaln(0.5, 0.5)
    return float(mixed - xlogy(count, share) - xlog1py(n - count, -share))
