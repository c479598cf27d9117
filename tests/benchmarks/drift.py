"""How often drift finds a difference where there is none, and where a fifth of the traffic is missing.

Traffic is three strata of shares .5, .3 and .2 whose features lie elsewhere: means at 0, 0.5 and `shift` standard
deviations of a stratum. A draw counts as found as `calibration check` would count it: one bound beyond its limit, of
any feature or joint direction, in all samples or in one stratum.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from rows import Row

from tasks.calibration.findings import count_strata, find_gaps
from tasks.calibration.report import Resemblance
from validation.directions import combine
from validation.drift import Drift, compare, stratum_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

DRAWS = 100
CORES = 2
SIZES = ((90, 600), (256, 2400), (1000, 10_000))
SHARES = (0.5, 0.3, 0.2)
SHIFTS = (3.0, 2.0, 1.5, 1.0)
USUAL = 2.0
MISSING_FROM = ("one normal", "four independent normals", "160 correlated")
CHANNELS = 160
LOWER_PSI, LOWER_KS = 0.1, 0.1
BOUNDS = 1000
LARGE = 100_000
_NEIGHBOURS = 0.9
_HALF_SHIFT = 0.5


def normal(rng: Generator, n: int) -> Floats:
    return rng.normal(size=(n, 1))


def lognormal(rng: Generator, n: int) -> Floats:
    return np.exp(rng.normal(size=(n, 1)))


def atom(rng: Generator, n: int) -> Floats:
    """Uniform, three tenths of it at 0."""
    values = rng.uniform(size=(n, 1))
    return np.where(values < 0.3, 0.0, values)


def heavy(rng: Generator, n: int) -> Floats:
    """Student's t of 1.5 degrees of freedom: no variance."""
    return rng.standard_t(1.5, size=(n, 1))


def mel(rng: Generator, n: int) -> Floats:
    """160 channels, neighbours correlated by 0.9."""
    values = rng.normal(size=(n, CHANNELS))
    for channel in range(1, CHANNELS):
        values[:, channel] *= np.sqrt(1 - _NEIGHBOURS**2)
        values[:, channel] += _NEIGHBOURS * values[:, channel - 1]
    return values


KINDS: dict[str, tuple[Callable[[Generator, int], Floats], ...]] = {
    "one normal": (normal,),
    "four independent normals": (normal,) * 4,
    "160 correlated": (mel,),
    "all kinds, 164": (normal, lognormal, atom, heavy, mel),
}


def draw(rng: Generator, kind: str, strata: NDArray[np.int64], shift: float) -> Floats:
    """Features [n, f] of samples of these strata."""
    moved = np.array([0.0, _HALF_SHIFT, shift])[strata][:, None]
    return np.hstack([make(rng, strata.size) + moved for make in KINDS[kind]]).astype(np.float32)


@dataclass(frozen=True)
class Found:
    """What a draw shows: by features alone, by these and directions, by both under the lower limits, and by labels."""

    features: bool
    all: bool
    lower: bool
    coverage: bool = False


def judge(compared: Iterable[Drift], directions: Iterable[Drift]) -> Found:
    alone, joint = list(compared), list(directions)
    low = any(each.psi_low > LOWER_PSI or each.ks_low > LOWER_KS for each in [*alone, *joint])
    found = any(each.unlike for each in alone)
    return Found(found, found or any(each.unlike for each in joint), low)


def same_source(kind: str, sizes: tuple[int, int], seed: int) -> Found:
    """A set drawn equally by stratum against traffic of the same source: over all, and in each stratum."""
    rng = np.random.default_rng([1, sizes[0], seed])
    of_set, of_sample = np.arange(sizes[0]) % 3, rng.choice(3, sizes[1], p=SHARES)
    calibration, sample = (draw(rng, kind, strata, USUAL) for strata in (of_set, of_sample))
    weights = stratum_weights(of_set.astype(str).tolist(), of_sample.astype(str).tolist())
    combined = combine(calibration, sample)
    sides = ((calibration, sample), (combined.calibration, combined.sample))
    judged = 4 * sum(side[0].shape[1] for side in sides)
    found = [
        [
            *compare(left, right, weights, comparisons=judged),
            *(
                each
                for stratum in range(3)
                for each in compare(left[of_set == stratum], right[of_sample == stratum], comparisons=judged)
            ),
        ]
        for left, right in sides
    ]
    return judge(*found)


def missing_stratum(kind: str, sizes: tuple[int, int], shift: float, seed: int) -> Found:
    """A set without the stratum of 20 %: by its label, and where nobody has labels."""
    rng = np.random.default_rng([2, sizes[0], seed])
    of_set, of_sample = rng.choice(2, sizes[0], p=(0.625, 0.375)), rng.choice(3, sizes[1], p=SHARES)
    calibration, sample = (draw(rng, kind, strata, shift) for strata in (of_set, of_sample))
    combined = combine(calibration, sample)
    judged = calibration.shape[1] + combined.sample.shape[1]
    found = judge(
        compare(calibration, sample, comparisons=judged),
        compare(combined.calibration, combined.sample, comparisons=judged),
    )
    return replace(found, coverage=_has_gap(of_set, of_sample))


def _has_gap(of_set: NDArray[np.int64], of_sample: NDArray[np.int64]) -> bool:
    ours, theirs = (
        {str(value): int((side == value).sum()) for value in np.unique(side)} for side in (of_set, of_sample)
    )
    found = Resemblance(
        set_samples=of_set.size,
        production_samples=of_sample.size,
        counts={"stratum": ours},
        production_counts={"stratum": theirs},
    )
    return any(find_gaps(count_strata({"stratum": ours}, found)))


def bounds_too_high(sizes: tuple[int, int]) -> tuple[float, float]:
    """Share of draws whose bound (PSI, D) is above the truth, of a set half a deviation off: near both limits."""
    rng = np.random.default_rng([3, sizes[0]])
    truth = compare(rng.normal(size=(1 << 20, 1)), rng.normal(_HALF_SHIFT, size=(1 << 20, 1)))[0]
    draws = rng.normal(size=(sizes[0], BOUNDS)), rng.normal(_HALF_SHIFT, size=(sizes[1], BOUNDS))
    found = compare(*draws, comparisons=1)
    return (
        float(np.mean([each.psi_low > truth.psi for each in found])),
        float(np.mean([each.ks_low > truth.ks for each in found])),
    )


def drift(_scratch: Path, draws: int = DRAWS) -> list[Row]:
    """Draws that drift finds fault with, of one source and without a stratum; how sure its bounds are; its time."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ.update(threads)  # Each core has its own process.
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        rows = []
        for kind, sizes in product(KINDS, SIZES):
            found = list(pool.map(partial(same_source, kind, sizes), range(draws), chunksize=5))
            rows.append(_same_row(kind, sizes, found))
        for kind, sizes, shift in product(MISSING_FROM, SIZES, SHIFTS):
            found = list(pool.map(partial(missing_stratum, kind, sizes, shift), range(draws), chunksize=5))
            rows.append(_missing_row(kind, sizes, shift, found))
        rows += map(_bounds_row, SIZES, pool.map(bounds_too_high, SIZES))
    return [*rows, _time_row()]


def _same_row(kind: str, sizes: tuple[int, int], found: list[Found]) -> Row:
    passed, lower = (100 * np.mean([not getattr(each, name) for each in found]) for name in ("all", "lower"))
    what = f"set and traffic of one source, {kind}, {_sizes(sizes)}: nothing found, over all and in 3 strata"
    measured = f"{passed:.0f} % of {len(found)} (PSI 0.1, D 0.1: {lower:.0f} %)"
    return Row(what, measured, "≥ 95 %", bool(passed >= 95))


def _missing_row(kind: str, sizes: tuple[int, int], shift: float, found: list[Found]) -> Row:
    labelled, alone, joint, lower = (
        100 * np.mean([getattr(each, name) for each in found]) for name in ("coverage", "features", "all", "lower")
    )
    what = f"set without 20 % that lie {shift:g} deviations off, {kind}, {_sizes(sizes)}: found"
    unlabelled = f"without labels {joint:.0f} % (features alone {alone:.0f} %; PSI 0.1, D 0.1: {lower:.0f} %)"
    return Row(what, f"{labelled:.0f} %; {unlabelled}", "≥ 99 %", bool(labelled >= 99))


def _bounds_row(sizes: tuple[int, int], shares: tuple[float, float]) -> Row:
    measured = f"PSI {100 * shares[0]:.1f} %, D {100 * shares[1]:.1f} %"
    return Row(f"bounds above the truth, near the limits, {_sizes(sizes)}", measured, "≤ 6 %", max(shares) <= 0.06)


def _time_row() -> Row:
    """Processor time, which others on the machine do not change."""
    rng = np.random.default_rng(4)
    sides = rng.normal(size=(2, LARGE, CHANNELS)).astype(np.float32)
    sides[1] *= 1.1  # A difference, so that the bootstrap has work.
    groups = rng.integers(0, 3, (3, LARGE))
    started = time.process_time()
    compare(sides[0], sides[1], comparisons=10 * CHANNELS)
    for cells, group in product(groups, range(3)):
        compare(sides[0][cells == group], sides[1][cells == group], comparisons=10 * CHANNELS)
    seconds = time.process_time() - started
    what = f"{LARGE:,} against {LARGE:,} samples, {CHANNELS} features, over all and in 9 groups"
    return Row(what, f"{seconds:.1f} s of one core", "≤ 15 s", seconds <= 15)


def _sizes(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]:,} against {sizes[1]:,}"
