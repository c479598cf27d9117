"""Does a calibration set look like the traffic? Independent samples, compared feature by feature.

Two numbers for each feature: the population stability index (PSI: Siddiqi 2006, "Credit Risk Scorecards"; the
symmetric divergence of Jeffreys over ten bins) and the distance D of Kolmogorov and Smirnov. A check fails only
where a *lower* bound is beyond its limit, so where there is evidence of a difference. The opposite, to pass only what
is shown to be alike, would refuse every small set: two samples of one source have on average a PSI of
`(bins - 1) * (1 / n + 1 / m)` (Yurdakul 2018, "Statistical Properties of Population Stability Index"), which at n = 30
is beyond 0.25, and a set of 90 cannot show that D is below 0.2.

A lower bound is above zero on two conditions:

1. There is a difference: the p-value of "both come from one source" is below `1 - confidence`, shared out over all
   comparisons that are judged together and both numbers (Bonferroni). Without it some bound of 160 features in 9
   groups is always above zero by chance.
2. Its size, by a bootstrap at `confidence`. PSI: the basic bound, `2 * estimate - quantile(resampled)` (Davison and
   Hinkley 1997), which takes out that the estimate is too high on average. D: D less the quantile of the largest gap
   between the resampled differences of shares and those seen, because the basic bound of a largest difference is
   above the truth in 8 to 18 of 100 draws, not 5. Both are for each feature on its own: sharing them out as well
   would leave a set of 90 unable to show anything.

What the limits can see: a stratum of the traffic that the set lacks, with share s, moves D by s at most, so D never
shows a missing fifth. PSI does where one feature tells the stratum apart by more than three standard deviations.
Several features that tell a little each tell much together: `directions.combine` makes features of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import scipy  # loads scipy.special when it is first used: 0.15 s, which a command's help need not take
from numpy.typing import NDArray

from validation.statistics import binned_kl, decile_edges

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]

PSI_LIMIT = 0.25
"""Above it a population has shifted and a model wants to be made anew (Siddiqi 2006; from 0.1 on it is "some change").

In terms of coverage: a tenth of the traffic with which the set has nothing in common is about 0.29 at n = 90.
"""
KS_LIMIT = 0.2
"""A fifth of the traffic lies elsewhere than in the set. No source sets it: it is half a standard deviation between two
normals (D = 0.197), a "medium" effect (Cohen 1988). PSI is the sharper of the two for a region that the set lacks."""
UNSEEN_LIMIT = 0.05
"""One token in twenty that the set never has, beyond what chance leaves out: no source, a judgement. The embedding
rows of unseen tokens enter no calibrated range."""
SEED = 20261122
_BINS = 64
_FOR_EDGES = 1 << 14
_FEATURES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far one feature of the set is from that of the sample, with lower bounds.

    `psi` in nats, from 0; `ks` from 0 to 1; `n_set` and `n_sample` are the samples compared, unweighted. A bound of 0
    says that there is no evidence of a difference.
    """

    psi: float
    psi_low: float
    ks: float
    ks_low: float
    n_set: int
    n_sample: int

    @property
    def unlike(self) -> bool:
        """Whether a bound is beyond its limit."""
        return beyond_limits(self.psi_low, self.ks_low)


def beyond_limits(psi_low: float, ks_low: float) -> bool:
    """Whether lower bounds show that a feature is not distributed alike."""
    return psi_low > PSI_LIMIT or ks_low > KS_LIMIT


@dataclass(frozen=True)
class _Plan:
    confidence: float
    resamples: int
    significance: float
    """P-value below which a difference counts."""


def compare(
    calibration: Floats,
    sample: Floats,
    weights: Floats | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 200,
    comparisons: int | None = None,
) -> list[Drift]:
    """Compare each feature of a calibration set with that of a sample of the traffic.

    Bins begin at the sample's deciles for PSI, and for D also at the 63 quantiles of both together, which leaves out
    at most what one side has inside a single bin (1/64 where they look alike); D over bins is never more than D. Bins
    never split equal values, so repeated values, atoms and constants are fine; half a count in each bin keeps PSI
    finite. The same arguments give the same bounds, whatever the other features are.

    Args:
        calibration: [n, f], any float dtype, finite.
        sample: [m, f], the same features of the traffic.
        weights: [n], from 0, how much each sample of the set counts (see `stratum_weights`); their scale is free.
            None: all alike.
        confidence: one-sided, of each bound and of all findings of a difference together.
        resamples: draws of the bootstrap.
        comparisons: features times groups that are judged together; None: f.

    Returns:
        One for each of the f features.

    Raises:
        ValueError: if shapes do not fit, a side is empty, a value is not finite, or no weight is above 0.
    """
    check_features(calibration, sample, weights)
    judged = comparisons or max(1, calibration.shape[1])
    plan = _Plan(confidence, resamples, (1 - confidence) / (2 * judged))
    weighing = np.ones(len(calibration)) if weights is None else np.asarray(weights, dtype=np.float64)
    used = weighing > 0
    return [
        _compare_feature(left[used], right, weighing[used], plan)
        for left, right in zip(columns(calibration), columns(sample), strict=True)
    ]


def check_features(calibration: Floats, sample: Floats, weights: Floats | None = None) -> None:
    """Raise ValueError unless [n, f] and [m, f] are finite and not empty, and `weights` [n] fit."""
    if calibration.ndim != 2 or sample.ndim != 2 or calibration.shape[1] != sample.shape[1]:  # noqa: PLR2004 - axes
        raise ValueError(f"features of the set {calibration.shape} and of the sample {sample.shape} must be [n, f]")
    if 0 in (len(calibration), len(sample)):
        raise ValueError(f"nothing to compare: {len(calibration)} samples in the set, {len(sample)} in the sample")
    for side, features in (("set", calibration), ("sample", sample)):
        bad = [j for j, column in enumerate(columns(features)) if not np.isfinite(column).all()]
        if bad:
            raise ValueError(f"{len(bad)} features of the {side} hold NaN or Inf (first: {bad[:5]}); mend the data")
    if weights is not None and (
        weights.shape != (len(calibration),) or not weights.min() >= 0 or not 0 < weights.sum() < np.inf
    ):
        raise ValueError(f"weights {weights.shape}: give one number ≥ 0 for each of {len(calibration)}, not all 0")


def columns(features: Floats) -> Iterable[Floats]:
    """Each column of [n, f] as [n] in one piece, because a row-major matrix gives one value for each cache line."""
    for start in range(0, features.shape[1], _FEATURES_AT_ONCE):
        yield from np.ascontiguousarray(features[:, start : start + _FEATURES_AT_ONCE].T)


@dataclass(frozen=True)
class _Binned:
    """One feature of one side: weighted counts [b] that sum to the effective number of samples, and how to resample.

    A sum of weights in a bin varies as a Poisson count of `(sum w)² / sum w²`, scaled.
    """

    counts: NDArray[np.float64]
    drawn: NDArray[np.float64]

    @classmethod
    def count(cls, values: Floats, edges: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> "_Binned":
        bins = np.searchsorted(edges, values, side="right")
        if weights is None:
            counts = np.bincount(bins, minlength=edges.size + 1).astype(np.float64)
            return cls(counts, counts)
        sums = np.bincount(bins, weights, minlength=edges.size + 1)
        squares = np.bincount(bins, weights**2, minlength=edges.size + 1)
        drawn = np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
        return cls(sums * (sums.sum() / squares.sum()), drawn)

    @property
    def size(self) -> float:
        """The effective number of samples (Kish 1965): W² / sum w²."""
        return float(self.counts.sum())

    def resample(self, generator: np.random.Generator, resamples: int) -> NDArray[np.float64]:
        """Poisson bootstrap (Hanley and MacGibbon 2006) of the counts: [resamples, b]."""
        scale = np.divide(self.counts, self.drawn, out=np.zeros_like(self.counts), where=self.drawn > 0)
        return np.asarray(generator.poisson(self.drawn, (resamples, self.drawn.size)) * scale)


def _compare_feature(calibration: Floats, sample: Floats, weights: NDArray[np.float64], plan: _Plan) -> Drift:
    pool = np.concatenate([thinned(calibration), thinned(sample)])
    coarse = decile_edges(thinned(sample))
    if coarse.size == 0:  # A constant sample has no deciles, yet the set may lie elsewhere.
        coarse = decile_edges(pool)
    edges = np.union1d(coarse, quantile_edges(pool))
    starts = np.concatenate([[0], np.searchsorted(edges, coarse) + 1])
    left, right = _Binned.count(calibration, edges, weights), _Binned.count(sample, edges)
    gaps = _gaps(left.counts, right.counts)
    psi, ks = float(_psi(left.counts, right.counts, starts)), float(np.abs(gaps).max())
    seen = _significant(psi, ks, len(coarse), (left.size, right.size), plan.significance)
    psi_low = ks_low = 0.0
    if any(seen):
        generator = np.random.Generator(np.random.PCG64(SEED))
        drawn = left.resample(generator, plan.resamples), right.resample(generator, plan.resamples)
        above = _quantile(_psi(*drawn, starts), plan.confidence) - psi
        apart = _quantile(np.abs(_gaps(*drawn) - gaps).max(axis=-1), plan.confidence)
        psi_low = float(np.clip(psi - above, 0.0, psi)) if seen[0] else 0.0
        ks_low = max(0.0, ks - apart) if seen[1] else 0.0
    return Drift(psi=psi, psi_low=psi_low, ks=ks, ks_low=ks_low, n_set=len(calibration), n_sample=len(sample))


def thinned(values: Floats) -> Floats:
    """At most 16,384 of the first axis, evenly spaced: enough to place the edges of bins, not to count in them."""
    return values[:: -(-len(values) // _FOR_EDGES)]


def quantile_edges(values: Floats) -> NDArray[np.float64]:
    """At most 63 edges at quantiles of the values [n], each half-way between two neighbouring distinct values.

    A value that is repeated over more than one quantile has a bin of its own.
    """
    ordered = np.sort(values).astype(np.float64)
    picked, times = np.unique(ordered[np.arange(1, _BINS) * len(ordered) // _BINS], return_counts=True)
    below = np.searchsorted(ordered, picked, side="left")
    above = np.searchsorted(ordered, picked[times > 1], side="right")
    cuts = np.setdiff1d(np.union1d(below, above), [0, len(ordered)])
    return np.asarray(ordered[cuts - 1] / 2 + ordered[cuts] / 2)


def _psi(calibration: Floats, sample: Floats, starts: Integers) -> NDArray[np.float64]:
    p, q = (np.add.reduceat(counts, starts, axis=-1) for counts in (calibration, sample))
    return binned_kl(p, q) + binned_kl(q, p)


def _gaps(calibration: Floats, sample: Floats) -> NDArray[np.float64]:
    """Differences of the two cumulative shares, at the end of each bin; D is the largest."""
    p, q = (np.cumsum(counts, axis=-1) for counts in (calibration, sample))
    with np.errstate(invalid="ignore"):  # A resample of very few samples can be empty, and then says nothing.
        return np.nan_to_num(p / p[..., -1:] - q / q[..., -1:], nan=np.inf)


def _significant(
    psi: float, ks: float, edges: int, sizes: tuple[float, float], significance: float
) -> tuple[bool, bool]:
    """Whether each number is too large for samples of one source.

    PSI / (1/n + 1/m) is then chi-squared with bins - 1 degrees of freedom (Yurdakul 2018), and D has Smirnov's limit.
    """
    variance = 1 / sizes[0] + 1 / sizes[1]
    changed = edges > 0 and scipy.special.chdtrc(edges, psi / variance) < significance
    return bool(changed), bool(scipy.special.kolmogorov(ks / sqrt(variance)) < significance)


def _quantile(resampled: NDArray[np.float64], confidence: float) -> float:
    return float(np.quantile(resampled, confidence, method="higher"))


def stratum_weights(calibration_cells: Sequence[str], sample_cells: Sequence[str]) -> NDArray[np.float64]:
    """Weights that give the strata of a set the shares that they have in the sample.

    This is post-stratification (Holt and Smith 1979). A set is stratified on purpose, with rare strata oversampled; as
    it is, every good set would look wrong.

    Args:
        calibration_cells: [n], the stratum of each sample of the set; join the values where several strata cross.
        sample_cells: [m], the same of the traffic.

    Returns:
        [n]: share of the cell in the sample over its share in the set, counted over cells that both have, with mean 1;
        0 in a cell that the sample lacks. Cells that one side lacks are for a check of coverage to report.

    Raises:
        ValueError: if the two have no cell in common.
    """
    cells, of_sample, counts = np.unique(np.asarray(calibration_cells), return_inverse=True, return_counts=True)
    known, seen = np.unique(np.asarray(sample_cells), return_counts=True)
    wanted = dict(zip(known.tolist(), seen.tolist(), strict=True))
    ratios = np.array([wanted.get(cell, 0) for cell in cells.tolist()]) / counts
    weights = ratios[of_sample]
    if not weights.any():
        raise ValueError(f"the set ({_first(cells)}) and the sample ({_first(known)}) share no stratum; check names")
    return np.asarray(weights / weights.mean())


def _first(cells: NDArray[Any]) -> str:
    return ", ".join(cells[:3].tolist()) or "nothing"


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Occurrences of tokens in a number of samples.

    `tokens` [t] are distinct and rise; `occurrences` [t] counts each, and `spread` [t] the samples that it occurs in.
    """

    tokens: Integers
    occurrences: Integers
    spread: Integers
    samples: int

    @classmethod
    def total(cls, parts: Iterable["TokenCounts"]) -> "TokenCounts":
        """The counts of disjoint parts of one data set together."""
        nothing = np.zeros(0, dtype=np.int64)
        found = [cls(nothing, nothing, nothing, 0), *parts]
        tokens, where = np.unique(np.concatenate([part.tokens for part in found]), return_inverse=True)
        sums = np.zeros((2, tokens.size), dtype=np.int64)
        np.add.at(sums[0], where, np.concatenate([part.occurrences for part in found]))
        np.add.at(sums[1], where, np.concatenate([part.spread for part in found]))
        return cls(tokens, sums[0], sums[1], sum(part.samples for part in found))


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Share of the traffic's token occurrences whose token the set lacks, and of how many distinct `tokens`.

    `expected` is the share that a set of this size would lack by chance, `low` a lower bound of what is beyond that,
    from 0 (0: no evidence of any).
    """

    share: float
    expected: float
    low: float
    tokens: int


def unseen_tokens(calibration: TokenCounts, sample: TokenCounts, *, confidence: float = 0.95) -> Unseen:
    """How much of the traffic's vocabulary a set misses, beyond what any set of its size would.

    A set misses, by Good-Turing (Good 1953), the share of occurrences that it has only once. Tokens come in samples
    and repeat there, so "once" is here "in one sample": the share of occurrences that would be unseen, had the sample
    that holds them been left out. Both shares get exact bounds (Clopper and Pearson 1934) as if a sample were seen
    or unseen as a whole, the largest design effect that there can be; the bound of the difference is made of these
    (Zou and Donner 2008).

    Raises:
        ValueError: if a side has no occurrence.
    """
    sizes = int(calibration.occurrences.sum()), int(sample.occurrences.sum())
    if 0 in sizes:
        raise ValueError(f"no tokens to compare: {sizes[0]} occurrences in the set, {sizes[1]} in the sample")
    missing = ~np.isin(sample.tokens, calibration.tokens)
    share = float(sample.occurrences[missing].sum() / sizes[1])
    expected = float(calibration.occurrences[calibration.spread == 1].sum() / sizes[0])
    below = share - _proportion_low(share, sample.samples, confidence)
    above = (1 - _proportion_low(1 - expected, calibration.samples, confidence)) - expected
    low = max(0.0, share - expected - sqrt(below**2 + above**2))
    return Unseen(share=share, expected=expected, low=low, tokens=int(missing.sum()))


def _proportion_low(share: float, samples: int, confidence: float) -> float:
    hits = share * samples
    return float(scipy.special.betaincinv(hits, samples - hits + 1, 1 - confidence)) if hits > 0 else 0.0
