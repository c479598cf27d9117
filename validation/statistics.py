"""Statistics of paired samples as pure functions on arrays; the streaming accumulators are built of these."""

from collections.abc import Iterator
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, kolmogorov, logsumexp

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

SMALLEST_PROBABILITY = 1e-12
"""Probabilities are clipped here, so a class ruled out by one side only costs at most 27.6 nats, not infinity."""
_LARGEST_EXACT_N = 10_000
"""Up to here the exact p-value is summed, term by term, as scipy's `ks_2samp` does; beyond, the limit is as good."""


def pearson_from_moments(reference_m2: float, candidate_m2: float, cross: float) -> float | None:
    """Pearson's r of centred sums of squares and products, or None where a side does not vary.

    >>> pearson_from_moments(4.0, 1.0, -2.0)
    -1.0
    """
    scale = sqrt(max(reference_m2, 0.0)) * sqrt(max(candidate_m2, 0.0))
    return max(-1.0, min(1.0, cross / scale)) if scale > 0 else None


def ks_two_sample(reference: Floats, candidate: Floats) -> float:
    """Two-sample Kolmogorov-Smirnov D, the largest gap between the two empirical distributions (Smirnov 1948).

    Needs at least one value on either side; exact, with ties.

    >>> ks_two_sample(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 9.0]))
    0.25
    """
    r, c = np.sort(reference, axis=None), np.sort(candidate, axis=None)
    return max(_largest_gap(r, c, steps) for side in (r, c) for steps in blocks(side))


def _largest_gap(reference: Floats, candidate: Floats, steps: Floats) -> float:
    below_r, below_c = (np.searchsorted(side, steps, side="right") / side.size for side in (reference, candidate))
    return float(np.abs(below_r - below_c).max())


def blocks(values: Floats, size: int = 1 << 14) -> Iterator[Floats]:
    """Cut a one-dimensional array into views of at most `size` values, so that what is made of each stays small.

    >>> [block.size for block in blocks(np.zeros(5), size=2)]
    [2, 2, 1]
    """
    for start in range(0, values.size, size):
        yield values[start : start + size]


def bin_counts(values: Floats, edges: Floats) -> Counts:
    """Number of values of a one-dimensional array in each of the `edges.size + 1` bins that `edges` part, low first.

    >>> bin_counts(np.array([0.1, 0.5, 0.9]), np.array([0.5])).tolist()
    [1, 2]
    """
    counts = np.zeros(edges.size + 1, dtype=np.int64)
    for block in blocks(values):
        counts += np.bincount(np.searchsorted(edges, block, side="right"), minlength=counts.size)
    return counts


def ks_of_counts(reference: Counts, candidate: Counts) -> float:
    """D at the edges of shared bins. It is at most D of the values, and below it by no more than the fullest bin.

    >>> ks_of_counts(np.array([2, 2, 0]), np.array([1, 2, 1]))
    0.25
    """
    gaps = np.cumsum(reference) / reference.sum() - np.cumsum(candidate) / candidate.sum()
    return float(np.abs(gaps).max())


def ks_pvalue(d: float, n: int) -> float:
    """P(D >= d) for two independent samples of n values each from one continuous distribution.

    Exact up to n = 10,000 (Gnedenko and Korolyuk 1951: 2 * sum (-1)^(j-1) C(2n, n - jk) / C(2n, n), k = nd), then
    Smirnov's limit, Q(d * sqrt(n / 2)).

    >>> round(ks_pvalue(0.135, 200), 4)
    0.0521
    """
    if n > _LARGEST_EXACT_N:
        return float(kolmogorov(d * sqrt(n / 2)))
    k = round(d * n)
    if k == 0:
        return 1.0
    j = np.arange(1, n // k + 1)
    terms = np.exp(2 * gammaln(n + 1) - gammaln(n - j * k + 1) - gammaln(n + j * k + 1))
    return float(np.clip(2 * np.sum(np.where(j % 2 == 1, terms, -terms)), 0.0, 1.0))


def decile_edges(reference: Floats) -> NDArray[np.float64]:
    """Inner bin edges at the reference's deciles, each half-way between two neighbouring distinct values.

    Half-way, so that rounding does not move a value that the reference repeats (a saturated score, an integer grade)
    to another bin. At most 9 edges, fewer where values repeat, at least one unless the reference is constant.

    >>> decile_edges(np.array([1.0, 1.0, 2.0, 2.0])).tolist()
    [1.5]
    """
    values, counts = np.unique(reference, return_counts=True)
    starts = decile_starts(counts)
    wide = values.astype(np.float64)
    return np.asarray((wide[starts - 1] + wide[starts]) / 2)


def decile_starts(counts: Counts) -> NDArray[np.int64]:
    """Indices of the bins, in order, that begin a new tenth of the counted values; none where one bin holds them all.

    >>> decile_starts(np.array([0, 95, 3, 2])).tolist()
    [2]
    """
    running = np.cumsum(counts)
    ranks = np.arange(1, 10) * running[-1] // 10
    starts = np.unique(np.searchsorted(running, ranks, side="right"))
    starts = starts[running[starts] > counts[starts]]
    if starts.size == 0:  # The lowest value alone fills nine tenths: cut above it.
        starts = np.flatnonzero(running > running[np.argmax(counts > 0)])[:1]
    return np.asarray(starts, dtype=np.int64)


def binned_kl(reference: Counts, candidate: Counts) -> float:
    """KL(reference || candidate) in nats of two histograms over the same bins.

    Half a count is added to every bin (Krichevsky and Trofimov 1981), so an empty bin is finite and n still matters.

    >>> binned_kl(np.array([50, 50]), np.array([50, 50]))
    0.0
    """
    p, q = reference + 0.5, candidate + 0.5
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, float(np.sum(p * np.log(p / q))))


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, stable for logits of any size.

    >>> log_softmax(np.array([1000.0, 1000.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    shifted: Floats = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - logsumexp(shifted, axis=-1, keepdims=True))


def log_probabilities(probabilities: Floats) -> Floats:
    """Log-probabilities over the last axis of probabilities, clipped to [1e-12, 1] and renormalised.

    >>> log_probabilities(np.array([2.0, 2.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    clipped = np.clip(probabilities, SMALLEST_PROBABILITY, 1.0)
    return np.asarray(np.log(clipped) - np.log(clipped.sum(axis=-1, keepdims=True)))


def categorical_kl(reference_log: Floats, candidate_log: Floats) -> Floats:
    """KL(reference || candidate) in nats over the last axis of log-probabilities (Kullback and Leibler 1951).

    >>> categorical_kl(np.log([0.5, 0.5]), np.log([0.5, 0.5])).item()
    0.0
    """
    terms = np.exp(reference_log) * (reference_log - candidate_log)
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))


def softmax_kl(reference: Floats, candidate: Floats) -> Floats:
    """KL(reference || candidate) in nats per sample: logits `[..., classes]` to `[...]`.

    >>> softmax_kl(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]])).tolist()
    [0.0]
    """
    return categorical_kl(log_softmax(reference), log_softmax(candidate))


def probability_kl(reference: Floats, candidate: Floats) -> Floats:
    """KL(reference || candidate) in nats per sample: probabilities `[..., classes]` to `[...]`.

    >>> round(probability_kl(np.array([1.0, 0.0]), np.array([0.5, 0.5])).item(), 4)
    0.6931
    """
    return categorical_kl(log_probabilities(reference), log_probabilities(candidate))
