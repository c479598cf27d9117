"""Statistics of paired samples as pure functions on arrays; the streaming accumulators are built of these."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

SMALLEST_PROBABILITY = 1e-12
"""Probabilities are clipped here, so a class ruled out by one side only costs at most 27.6 nats, not infinity."""
_LARGEST_EXACT_N = 10_000
"""Up to here the exact p-value is summed, term by term, as scipy's `ks_2samp` does; beyond, the limit is as good."""


def ks_pvalue(d: float, n: int) -> float:
    """P(D >= d) for two independent samples of n values each from one continuous distribution.

    Exact up to n = 10,000 (Gnedenko and Korolyuk 1951: 2 * sum (-1)^(j-1) C(2n, n - jk) / C(2n, n), k = nd), then
    Smirnov's limit, Q(d * sqrt(n / 2)).

    >>> round(ks_pvalue(0.135, 200), 4)
    0.0521
    """
    from scipy.special import gammaln, kolmogorov  # noqa: PLC0415 - 0.15 s, which reading a manifest need not take

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


def binned_kl(reference: Floats, candidate: Floats) -> NDArray[np.float64]:
    """KL(reference || candidate) in nats of histograms over the same bins, on the last axis.

    Half a count is added to every bin (Krichevsky and Trofimov 1981), so an empty bin is finite and n still matters.

    >>> binned_kl(np.array([50, 50]), np.array([50, 50])).item()
    0.0
    """
    p, q = reference + 0.5, candidate + 0.5
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return np.asarray(np.maximum(0.0, np.sum(p * np.log(p / q), axis=-1)))


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, stable for logits of any size.

    >>> log_softmax(np.array([1000.0, 1000.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    from scipy.special import logsumexp  # noqa: PLC0415 - as above

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


def jensen_shannon(reference_log: Floats, candidate_log: Floats) -> Floats:
    """Jensen-Shannon divergence in nats over the last axis of log-probabilities (Lin 1991); at most ln 2.

    >>> jensen_shannon(np.log([0.5, 0.5]), np.log([0.5, 0.5])).item()
    0.0
    """
    middle = np.logaddexp(reference_log, candidate_log) - np.log(2.0)
    found = (categorical_kl(reference_log, middle) + categorical_kl(candidate_log, middle)) / 2
    return np.asarray(np.where((reference_log == candidate_log).all(axis=-1), 0.0, found))  # not 1e-17
