"""How many samples would decide a rule that is inconclusive."""

from collections.abc import Callable, Mapping
from math import ceil, floor, inf, isfinite, isinf, log, log10, sqrt

from validation.comparison import Measurement
from validation.distributions import smallest_n
from validation.metrics import METRICS, Bound
from validation.rules import Rule

_POWER = 2.0
"""A bound is 1.64 deviations from the value, at 95 %; twice that leaves room for the value of another draw."""
_DISTANCES: Mapping[str, Callable[[float], float]] = {"ks": float, "wasserstein": float, "kl": sqrt}
"""Distances between distributions, and what of them shrinks with the root of n where there is none: it is all noise."""
_SHARE_AT_HALF = 28.0
"""Wrong samples that a share's limit must allow: with half as many on average, at most 19 come in 9 of 10 samples, and
19 are shown to be fewer than 28 (Clopper and Pearson 1934, at 95 %)."""
_ROOTS = frozenset({"rmse", "relative_l2"})
"""Roots of means: it is their square of which one part shrinks with the root of n and one with n."""
_RARE = 3.3
"""Deviations for rare errors: 1.28 for their number in 9 of 10 samples, 1.64 for what it shows, and some to spare."""
_UNSEEN = 3.0
"""Samples for which the one stands that nobody has seen: of so many wrong ones, none is seen in 5 of 100 samples."""
_MARGINS: Mapping[str, float] = {"qwk_drop": 1.5, "pearson": 1.5, "cosine": 1.5, "relative_l2": 2.0}
"""So many times what is found. Rare errors by the whole range decide over kappa, and a small sample has seen a few of
them at best: of engines at half the limit 83 % passed without it, and 92 % do (240 draws). What one sample can cost the
others grows with n where no range is declared, and hardly shrinks where it decides over all of a small sample."""
_MARGIN_OF_CORRELATION = 1.15
"""Of a correlation, beside what the interval of values grows by with n (see `_margin`): right within 1.5 times then."""
_POWER_OF_DISTANCE = 1.5
"""Of a distance, whose bound is that of the largest of many gaps, which varies less than one: 2 asks for twice what it
takes (by simulation)."""
_MOST = 1e9
_DIGITS = 2


def needed_samples(rule: Rule, m: Measurement, confidence: float) -> int | None:
    """About how many samples would decide, if they are like those that were seen; None where no number would.

    The part of a bound that comes of what was seen shrinks with the root of n, the part that stands for what nobody
    has seen with n itself.
    """
    return _needed(rule, m, confidence, at_half=False)


def needed_at_half(rule: Rule, m: Measurement, confidence: float) -> int | None:
    """About how many samples would decide, where the engine may be at half its limit for all that was seen.

    So many decide if the value stays as it is, and show an engine at half the limit to be within it: where a rule is
    not decided, the value is hardly known. What such an engine has beyond the value may be errors so rare that none
    was seen, and as bad as can be: see `_with_rare_errors`.
    """
    return _needed(rule, m, confidence, at_half=True)


def _needed(rule: Rule, m: Measurement, confidence: float, *, at_half: bool) -> int | None:
    metric = METRICS[rule.metric]
    if m.value is None or m.n == 0:
        return None
    if metric.bound is not Bound.INTERVAL:
        return m.n
    least = 0.0 if metric.quantile is None else float(smallest_n(metric.quantile, confidence))
    if at_half and metric.share and rule.side == "min":  # where none was wrong, nothing tells how many will be
        least = _SHARE_AT_HALF / abs(rule.limit - metric.ideal)
    if (rule.side != "min" and m.high is None) or (rule.side != "max" and m.low is None):
        return _rounded((1 + at_half) * least) if least > m.n else None
    if rule.metric in _DISTANCES:
        found = _for_distance(rule, m, _POWER if at_half else _POWER_OF_DISTANCE)
    else:
        found = _for_value(rule, m, m.value, at_half=at_half)
    found *= _MARGINS.get(rule.metric, 1.0) if at_half else _margin(rule, m, found)
    if metric.quantile is not None and rule.side != "within" and rule.floor <= m.value <= rule.ceiling:
        # An order statistic jumps: it tells of samples beyond the limit, which are a share that `1 - quantile` allows.
        found = min(found, _SHARE_AT_HALF / min(metric.quantile, 1 - metric.quantile))
    return None if found > _MOST else _rounded(max(found, least))


def _margin(rule: Rule, m: Measurement, found: float) -> float:
    """The square of the interval that values are seen in grows with the logarithm of n, where tails are normal."""
    if rule.metric != "pearson" or found <= m.n:
        return 1.0
    return _MARGIN_OF_CORRELATION * log(min(found, _MOST)) / log(m.n + 1)


def _for_value(rule: Rule, m: Measurement, value: float, *, at_half: bool) -> float:
    ideal = METRICS[rule.metric].ideal
    half = abs(rule.limit - ideal) / 2 if at_half else 0.0
    above = _spread(value, m.high_seen, m.high, m.n)
    below = _spread(value, m.low_seen, m.low, m.n)
    if value > rule.ceiling:
        return max(_solved(value - rule.ceiling, *below), _solved(half or inf, *above))
    if value < rule.floor:
        return max(_solved(rule.floor - value, *above), _solved(half or inf, *below))
    if rule.metric in _ROOTS:
        spread = _spread(value**2, _squared(m.high_seen), _squared(m.high), m.n)
        room_at_half = rule.limit**2 - half**2 if half else 0.0
        return _solved_at_half(rule.limit**2 - value**2, room_at_half, half**2 - value**2, spread)
    rest = half - abs(value - ideal)
    sides = ((rule.ceiling - value, above), (value - rule.floor, below))
    return max(_solved_at_half(room, half, rest, spread) for room, spread in sides if isfinite(room))


def _squared(bound: float | None) -> float | None:
    return None if bound is None else bound * bound


def _solved_at_half(room: float, half: float, rest: float, spread: tuple[float, float]) -> float:
    """For the room that the value leaves, or for the half that one at half the limit does, which lies `rest` higher."""
    return _solved(min(room, half or room), *_with_rare_errors(rest, *spread))


def _with_rare_errors(rest: float, part: float, unseen: float) -> tuple[float, float]:
    """The parts of a bound whose value is `rest` higher, by errors that come one in many samples.

    Of those one counts unseen / 3. Their number in n samples is k = n * rest / (unseen / 3) on average; in 9 of 10 it
    is shown, at 95 %, to be at most k + 2.93 sqrt(k) + 3 (Poisson, within 3 % up to k = 100).
    """
    rare = _RARE * _RARE * max(0.0, rest) * unseen / _UNSEEN
    return sqrt(part * part + rare), unseen


def _for_distance(rule: Rule, m: Measurement, power: float) -> float:
    """From the lower bound: the value is too high where the distributions are close, which one cannot tell from it."""
    scale = _DISTANCES[rule.metric]
    low, seen, high = (scale(max(0.0, each or 0.0)) for each in (m.low, m.high_seen, m.high))
    part, unseen = _spread(low, seen, high, m.n, power)
    return _solved(scale(rule.limit) - low, part, unseen)


def _spread(
    value: float, seen: float | None, bound: float | None, n: int, power: float = _POWER
) -> tuple[float, float]:
    """What to divide by the root of n, and by n, for the distance of a bound from the value."""
    if seen is None or bound is None:
        return inf, 0.0
    near, far = abs(seen - value), abs(bound - value)
    return power * near * sqrt(n), max(0.0, far - near) * n


def _solved(room: float, part: float, unseen: float) -> float:
    """The n at which room = part / sqrt(n) + unseen / n."""
    if room <= 0:
        return inf
    if isinf(room):
        return 0.0
    root = (part + sqrt(part * part + 4 * room * unseen)) / (2 * room)
    return root * root


def _rounded(n: float) -> int:
    """Up to two digits: nobody knows more."""
    unit = 10 ** max(0, floor(log10(max(n, 1))) - _DIGITS + 1)
    return int(ceil(n / unit) * unit)
