"""Says what is wrong with a calibration set: pure decisions on what was measured, each with its limit."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tasks.calibration.report import Finding, Place, StratumCount
from validation.drift import KS_LIMIT, PSI_LIMIT, UNSEEN_LIMIT, beyond_limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.calibration.report import FeatureDrift, RangeCoverage, Resemblance, TokenCoverage

FEWEST = 20
"""Samples that a place must have on both sides to be compared on its own."""
RARE, RARE_TOGETHER = 0.01, 0.05
"""A value with a smaller share of production may be missing from a set; all such values together, with this share."""
THIN = 10
"""So many times more common in production, a value is as good as missing: too few samples to compare, too few to count
where all are weighed as production is. By chance it hardly comes about: 11 % of production gives 1 of 90 samples once
in 3,000 draws."""
CLIPPING_LIMIT = 0.05
"""Largest relative L2 error that cutting a tensor off at the set's range may cause. Rounding to 8 bits costs a normal
tensor about 0.01 (a step of 4 deviations / 127, over the root of 12), so this is five times what INT8 costs anyway."""


def count_strata(minima: Mapping[str, Mapping[str, int | float]], found: Resemblance) -> tuple[StratumCount, ...]:
    """A row for each value of each stratum that the manifest asks for, by `minima`, or that production has."""
    return tuple(
        _count_value(stratum, value, values.get(value, 0), found)
        for stratum, values in minima.items()
        for value in sorted({*values, *found.production_counts.get(stratum, {})})
    )


def _count_value(stratum: str, value: str, minimum: float, found: Resemblance) -> StratumCount:
    samples, there = found.counts.get(stratum, {}).get(value, 0), found.production_counts.get(stratum)
    return StratumCount(
        stratum=stratum,
        value=value,
        samples=samples,
        minimum=minimum,
        share=samples / found.set_samples,
        production_share=None if there is None else there.get(value, 0) / found.production_samples,
    )


def find_gaps(strata: Iterable[StratumCount]) -> Iterator[Finding]:
    """Values of strata with too few samples, or none where production has some."""
    rare: dict[str, list[float]] = defaultdict(list)
    for row in strata:
        sentence = _say_gap(row)
        if sentence is not None:
            yield Finding(check="coverage", sentence=f"stratum {row.stratum}={row.value} has {sentence}")
        elif row.samples == 0 and row.production_share:
            rare[row.stratum].append(row.production_share)
    for stratum, shares in rare.items():
        if sum(shares) >= RARE_TOGETHER:
            yield Finding(
                check="coverage",
                sentence=f"{len(shares):,} values of stratum {stratum} have 0 samples, production has"
                f" {_percent(sum(shares))} of them together",
            )


def _say_gap(row: StratumCount) -> str | None:
    has, share = _count(row.samples), row.production_share
    production = "" if share is None else f", production has {_percent(share)}"
    if row.samples == 0:
        return f"{has}{production}" if row.minimum > 0 or (share or 0.0) >= RARE else None
    if isinstance(row.minimum, float) and row.share < row.minimum:
        found, asked = _told_apart(row.share, row.minimum)
        return f"{has}, {found} of the set; manifest.yaml asks for {asked}"
    if isinstance(row.minimum, int) and row.samples < row.minimum:
        return f"{has}; manifest.yaml asks for {row.minimum:,}"
    if row.samples < FEWEST and share is not None and share > THIN * row.share:
        return f"{has}, {_percent(row.share)} of the set{production}"
    return None


def find_age(age_days: int, max_age_days: int | None) -> Iterator[Finding]:
    """A set that is older than its own limit."""
    if max_age_days is not None and age_days > max_age_days:
        yield Finding(
            check="freshness",
            sentence=f"its newest sample is {age_days:,} days old; manifest.yaml's max_age_days is {max_age_days:,}",
        )


def find_differences(resemblance: Resemblance) -> Iterator[Finding]:
    """Features, tokens and ranges in which the set is not like production; or that there are none to compare."""
    if not (resemblance.features or resemblance.tokens or resemblance.ranges):
        yield Finding(
            check="drift",
            sentence="nothing was compared: the inputs are masks without numbers, lengths or tokens, and the reference"
            " was not run; name its model",
        )
    yield from _find_features(resemblance.features)
    for row in resemblance.tokens:
        if lacks_tokens(row):
            yield Finding(check="drift", sentence=_say_tokens(row))
    clipped = [row for row in resemblance.ranges if clips(row)]
    if clipped:
        yield Finding(check="range", sentence=_say_ranges(clipped, len(resemblance.ranges)))


def differs(row: FeatureDrift) -> bool:
    """Whether there is evidence that a feature of the set is not distributed as in production."""
    return beyond_limits(row.psi_low, row.ks_low)


def lacks_tokens(row: TokenCoverage) -> bool:
    """Whether there is evidence that the set lacks more of production's tokens than chance explains."""
    return row.beyond > UNSEEN_LIMIT


def clips(row: RangeCoverage) -> bool:
    """Whether there is evidence that the set's range of a tensor is too small for production."""
    return row.evident and row.worst_clipped > CLIPPING_LIMIT


def _find_features(rows: Sequence[FeatureDrift]) -> Iterator[Finding]:
    places: dict[Place, list[FeatureDrift]] = defaultdict(list)
    for row in rows:
        places[row.place].append(row)
    for place, found in places.items():
        far = sorted((row for row in found if differs(row)), key=lambda row: -row.ks_low)
        if far:
            where = f" where {place}" if str(place) else ""
            many = (
                "" if len(found) == 1 else f"{len(far)} of {len(found)} features differ from production{where}; most: "
            )
            yield Finding(check="drift", sentence=f"{many}{_say_feature(far[0], where if not many else '')}")


def _say_feature(row: FeatureDrift, where: str) -> str:
    return (
        f"{row.feature} is distributed otherwise than in production{where}: D {row.ks:.2g}, at least {row.ks_low:.2g}"
        f" (limit {KS_LIMIT:g}); PSI {row.psi:.2g}, at least {row.psi_low:.2g} (limit {PSI_LIMIT:g})"
    )


def _say_tokens(row: TokenCoverage) -> str:
    where = f" where {row.place}" if str(row.place) else ""
    return (
        f"{_percent(row.unseen)} of production's {row.input}{where} are tokens that the set lacks; a set of its size"
        f" from the same source would lack {_percent(row.expected)}"
    )


def _say_ranges(clipped: Sequence[RangeCoverage], tensors: int) -> str:
    row = clipped[0]
    where = f" where {row.worst}" if str(row.worst) else ""
    return (
        f"{len(clipped)} of {tensors} tensors go beyond the range of the set; most: {row.tensor} ends at"
        f" {row.set_largest:.4g} in the set and at {row.production_largest:.4g} in production, and clipping it is an"
        f" error of {_percent(row.worst_clipped)}{where} (limit {_percent(CLIPPING_LIMIT)})"
    )


def _told_apart(found: float, asked: float) -> tuple[str, str]:
    """Both as percentages, with as many digits as it takes to see that they differ."""
    pairs = [(f"{100 * found:.{digits}g} %", f"{100 * asked:.{digits}g} %") for digits in range(2, 12)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])


def _count(samples: int) -> str:
    return f"{samples:,} sample" + ("" if samples == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"  # noqa: PLR2004 - as it is rounded
