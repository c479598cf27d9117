"""Tests of a mean that may be looked at after every value, by betting against what they would refute.

Who bets at fair odds that a mean is below a limit cannot get rich if it is not: the chance that the capital ever
reaches 1 / alpha is alpha at most (Ville 1939). So a capital that did is a proof at that level, whenever one looked,
and nothing is paid for looking. This is the hedged capital of Waudby-Smith and Ramdas (2024, J. R. Stat. Soc. B 86),
with stakes that are set beforehand: the capital is spread over a few, since which one grows fastest is not known.
"""

import math

import numpy as np

from validation.units import Floats

# Shares of the largest stake that no value can ruin, and of the capital on each. An engine that is worth rolling out is
# far within its limits: against a share of errors, 0.8 is the best stake where the true share is a fifth of the limit.
_BELOW = ((0.98, 0.30), (0.8, 0.40), (0.5, 0.12), (0.25, 0.08), (0.12, 0.05), (0.06, 0.03), (0.03, 0.02))
# The best one against a share is about as small as the limit itself.
_ABOVE = tuple((0.98 * 0.5**power, 1 / 12) for power in range(12))
_BLOCK = 4096
COUNTED = 64
"""Whole values are counted so many at a time, and the capital is looked at after each; AFRESH is a multiple of it."""
_KINDS = np.array([-1.0, 0.0, 1.0])
AFRESH = 1024
"""Values after which another gambler begins against a mean that is below the limit, so that one that rises late is
found: of the capital, who began at the first value has 3/4, and the k-th after it a quarter of 1 / (k (k + 1))."""
_FIRST, _LATER = 0.75, 0.25


class Bet:
    """Whether the mean of values in `[low, high]` is below a limit, and whether it is above.

    `below` and `above` are the logarithms of the largest capital so far of who bet so: `below >= log(1 / alpha)` shows
    that the mean is below the limit. That holds for values whose mean, given all before, is at or above the limit under
    what is refuted: independent ones, and others too. Who bets that it is above begins afresh again and again (an
    e-detector; Shin, Ramdas and Rinaldo 2024, N. Engl. J. Stat. Data Sci. 2), and asks whether it ever was. The same
    values give the same capitals in any batches.
    """

    def __init__(self, low: float, high: float, limit: float, *, whole: bool = False) -> None:
        """`whole` values are -1, 0 or 1, and are bet on 64 at a time, which is as fair and far faster."""
        self.low, self.high, self.limit = low, high, limit
        self.n, self._sum = 0, 0.0
        self._below = self._above = 0.0
        self._down = _Stakes(_BELOW, high - limit)
        self._up = _Afresh(_ABOVE, limit - low)
        self._whole, self._rest = whole, np.zeros(len(_KINDS))

    @property
    def below(self) -> float:
        """Of who bets that the mean is below the limit."""
        return max(self._below, self._down.after(self._down_steps(self._rest[None, :]))) if self._whole else self._below

    @property
    def above(self) -> float:
        """Of who bets that it is above."""
        return max(self._above, self._up.after(self._up_steps(self._rest[None, :]))) if self._whole else self._above

    @property
    def mean(self) -> float | None:
        """The mean so far; None without a value."""
        return self._sum / self.n if self.n else None

    def add(self, values: Floats) -> None:
        """Take values in, `[n]`; those outside the range count as its ends, and what is no number as the high one."""
        known = np.clip(np.where(np.isfinite(values), values, self.high), self.low, self.high).astype(np.float64)
        if self._whole:
            self._count(known)
        else:
            for start in range(0, len(known), _BLOCK):
                part = known[start : start + _BLOCK]
                self._below = max(self._below, self._down.play(self._down.steps(self.limit - part)))
                self._above = max(self._above, self._up.play(self._up.steps(part - self.limit)))
        self.n += len(known)
        self._sum = float(np.cumsum(np.concatenate([[self._sum], known]))[-1])  # in order, as it came

    def _count(self, known: Floats) -> None:
        places = (self.n % COUNTED + np.arange(len(known))) // COUNTED
        blocks = (self.n % COUNTED + len(known)) // COUNTED
        kinds = len(_KINDS)
        found = np.bincount(places * kinds + known.astype(np.int64) + 1, minlength=(blocks + 1) * kinds)
        counts = found.reshape(-1, kinds).astype(np.float64)
        counts[0] += self._rest
        full, self._rest = counts[:blocks], counts[blocks]
        if blocks:
            self._below = max(self._below, self._down.play(self._down_steps(full)))
            self._above = max(self._above, self._up.play(self._up_steps(full), COUNTED))

    def _down_steps(self, counts: Floats) -> Floats:
        return _counted(counts, self._down.steps(self.limit - _KINDS))

    def _up_steps(self, counts: Floats) -> Floats:
        return _counted(counts, self._up.steps(_KINDS - self.limit))

    def more(self, target: float) -> int | None:
        """About how many more values like these take `below` to the target; None where they lead away from it."""
        now = self._down.after(self._down_steps(self._rest[None, :]))
        rate = now / self.n if self.n else 0.0
        return None if rate <= 0 else math.ceil(max(0.0, target - now) / rate)


class _Stakes:
    """A capital of 1, spread over stakes; `largest` is the most that one value can take of a stake of 1."""

    def __init__(self, stakes: tuple[tuple[float, float], ...], largest: float) -> None:
        shares, weights = np.array(stakes).T
        self._stakes = shares / largest
        self._logs = np.log(weights)

    def steps(self, gains: Floats) -> Floats:
        """What each value adds to the logarithm of each stake's capital."""
        return np.asarray(np.log1p(gains[:, None] * self._stakes))

    def after(self, steps: Floats) -> float:
        """The logarithm of the capital, were one step played."""
        return float(self._capitals(self._logs[None, :] + steps)[0])

    def _capitals(self, logs: Floats) -> Floats:
        """The logarithm of the capital at each row of what the stakes have."""
        return _log_sum(logs)

    def play(self, steps: Floats) -> float:
        """Bet on each value in turn; the logarithm of the largest capital on the way."""
        running = np.cumsum(np.concatenate([self._logs[None, :], steps]), axis=0)[1:]
        self._logs = running[-1]
        return float(_log_sum(running).max())


class _Afresh(_Stakes):
    """A capital of 1, spread over gamblers who begin every AFRESH values, and each gambler's over stakes.

    One who has not begun keeps what he has, so that the whole is fair at every moment. Of a gambler who began at s a
    stake has grown to exp(L now - L at s): of all who began, `_entered` keeps the logarithm of the weighted sum of
    exp(-L at s), stake by stake.
    """

    def __init__(self, stakes: tuple[tuple[float, float], ...], largest: float) -> None:
        super().__init__(stakes, largest)
        self._weights, self._logs = self._logs, np.zeros(len(stakes))
        self._entered = np.full(len(stakes), math.log(_FIRST))
        self._n, self._begun = 0, 0

    def play(self, steps: Floats, values: int = 1) -> float:
        """Bet on each step in turn, of so many values; the logarithm of the largest capital on the way."""
        largest, start = -math.inf, 0
        while start < len(steps):
            part = steps[start : start + (AFRESH - self._n % AFRESH) // values]
            running = np.cumsum(np.concatenate([self._logs[None, :], part]), axis=0)[1:]
            self._logs = running[-1]
            largest = max(largest, float(self._capitals(running).max()))
            start, self._n = start + len(part), self._n + len(part) * values
            if self._n % AFRESH == 0:
                self._begun += 1
                own = math.log(_LATER / (self._begun * (self._begun + 1)))
                self._entered = np.logaddexp(self._entered, own - self._logs)
        return largest

    def _capitals(self, logs: Floats) -> Floats:
        waiting = np.full((len(logs), 1), math.log(_LATER / (self._begun + 1)))
        return _log_sum(np.hstack([logs + self._weights + self._entered, waiting]))


def _counted(counts: Floats, steps: Floats) -> Floats:
    """Steps of so many values of each kind; not by `@`, whose sums hang on how many rows it is given."""
    return np.asarray(sum(counts[:, kind, None] * steps[kind] for kind in range(len(_KINDS))))


def _log_sum(logs: Floats) -> Floats:
    largest = logs.max(axis=1)
    return np.asarray(largest + np.log(np.exp(logs - largest[:, None]).sum(axis=1)))
