"""Says what is wrong with a calibration set: pure decisions on what was measured, each with its limit."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tasks.calibration.report import Finding, Place, StratumCount
from validation.likeness import KS_LIMIT, PSI_LIMIT, UNSEEN_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.calibration.report import FeatureLikeness, RangeCoverage, Resemblance, TokenCoverage

RARE = 0.01
"""A value with a smaller share of production may be missing from a set."""
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
    samples, there = found.counts[stratum].get(value, 0), found.production_counts.get(stratum)
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
    for row in strata:
        has = f"stratum {row.stratum}={row.value} has {_count(row.samples)}"
        share = row.production_share
        production = "" if share is None else f", production has {_percent(share)}"
        if row.samples == 0 and (row.minimum > 0 or (share or 0.0) >= RARE):
            yield Finding(check="coverage", sentence=f"{has}{production}")
        elif isinstance(row.minimum, float) and row.share < row.minimum:
            asked = f", {_percent(row.share)} of the set; manifest.yaml asks for {_percent(row.minimum)}"
            yield Finding(check="coverage", sentence=f"{has}{asked}")
        elif isinstance(row.minimum, int) and row.samples < row.minimum:
            yield Finding(check="coverage", sentence=f"{has}; manifest.yaml asks for {row.minimum:,}")


def find_age(age_days: int, max_age_days: int | None) -> Iterator[Finding]:
    """A set that is older than its own limit."""
    if max_age_days is not None and age_days > max_age_days:
        yield Finding(
            check="freshness",
            sentence=f"its newest sample is {age_days:,} days old; manifest.yaml's max_age_days is {max_age_days:,}",
        )


def find_differences(resemblance: Resemblance) -> Iterator[Finding]:
    """Features, tokens and ranges in which the set is not like production."""
    yield from _find_features(resemblance.features)
    for row in resemblance.tokens:
        if row.beyond > UNSEEN_LIMIT:
            yield Finding(check="likeness", sentence=_say_tokens(row))
    clipped = [row for row in resemblance.ranges if row.worst_clipped > CLIPPING_LIMIT]
    if clipped:
        yield Finding(check="range", sentence=_say_ranges(clipped, len(resemblance.ranges)))


def differs(row: FeatureLikeness) -> bool:
    """Whether there is evidence that a feature of the set is not distributed as in production."""
    return row.ks_low > KS_LIMIT or row.psi_low > PSI_LIMIT


def _find_features(rows: Sequence[FeatureLikeness]) -> Iterator[Finding]:
    places: dict[Place, list[FeatureLikeness]] = defaultdict(list)
    for row in rows:
        places[row.place].append(row)
    for place, found in places.items():
        far = sorted((row for row in found if differs(row)), key=lambda row: -row.ks_low)
        if far:
            where = f" where {place}" if str(place) else ""
            many = (
                "" if len(found) == 1 else f"{len(far)} of {len(found)} features differ from production{where}; most: "
            )
            yield Finding(check="likeness", sentence=f"{many}{_say_feature(far[0], where if not many else '')}")


def _say_feature(row: FeatureLikeness, where: str) -> str:
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


def _count(samples: int) -> str:
    return f"{samples:,} sample" + ("" if samples == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"  # noqa: PLR2004 - as it is rounded
