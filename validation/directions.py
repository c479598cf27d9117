"""Joint directions of many features, for strata that no single feature tells apart.

A stratum that shifts each of many features by two standard deviations is hidden in every one of them and plain in
their common direction. These are principal directions of both sides together: they know nothing of which side a
sample is on, so two samples of one source stay that. They are of normal scores (van der Waerden 1952), which no
outlier moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from validation.drift import Floats, check_features, columns, quantile_edges, thinned

DIRECTIONS = 8
"""The most directions. Each is one comparison more, and few suffice to part a handful of strata."""


@dataclass(frozen=True)
class Combined:
    """Features made of several: scores [n, k] and [m, k], and what they are made of, `loadings` [k, f], of length 1."""

    calibration: NDArray[np.float32]
    sample: NDArray[np.float32]
    loadings: NDArray[np.float64]


def combine(calibration: Floats, sample: Floats, count: int = DIRECTIONS) -> Combined:
    """Find the principal directions of both sides together; `drift.compare` takes the scores as features.

    Find them once, for all samples, and cut groups of samples out of the scores.

    Args:
        calibration: [n, f], finite.
        sample: [m, f].
        count: the most directions.

    Returns:
        `min(count, f)` directions, the widest first; none where there is one feature only.

    Raises:
        ValueError: if shapes do not fit, a side is empty, or a value is not finite.
    """
    check_features(calibration, sample)
    thin = thinned(calibration), thinned(sample)
    scorers = [_NormalScores(np.concatenate(pair)) for pair in zip(*map(columns, thin), strict=True)]
    kept = min(count, len(scorers)) if len(scorers) > 1 else 0
    loadings = _principal(np.concatenate([_scored(side, scorers) for side in thin]))[:kept]
    return Combined(_projected(calibration, scorers, loadings), _projected(sample, scorers, loadings), loadings)


class _NormalScores:
    """Maps values to the normal quantile of the middle rank of their bin."""

    def __init__(self, values: Floats) -> None:
        self._edges = quantile_edges(values)
        counts = np.bincount(np.searchsorted(self._edges, values, side="right"), minlength=self._edges.size + 1)
        self._scores = ndtri((np.cumsum(counts) - counts / 2) / counts.sum())

    def __call__(self, values: Floats) -> NDArray[np.float64]:
        return np.asarray(self._scores[np.searchsorted(self._edges, values, side="right")])


def _principal(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """All directions [f, f], the widest first, each with its largest loading positive.

    Rounded, so that the order in which cores sum does not show.
    """
    found = np.linalg.eigh(np.atleast_2d(np.cov(scores, rowvar=False)).round(9))[1].T[::-1]
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1, keepdims=True), axis=1)
    return np.asarray((found * np.sign(largest)).round(6))


def _scored(features: Floats, scorers: Sequence[_NormalScores]) -> NDArray[np.float64]:
    return np.stack([score(column) for score, column in zip(scorers, columns(features), strict=True)], axis=1)


def _projected(features: Floats, scorers: Sequence[_NormalScores], loadings: Floats) -> NDArray[np.float32]:
    """Summed feature by feature, so equal samples get equal scores."""
    scores = np.zeros((len(loadings), len(features)))
    for score, column, loading in zip(scorers, columns(features), loadings.T, strict=True):
        values = score(column)
        for direction, share in enumerate(loading):
            scores[direction] += share * values
    return np.ascontiguousarray(scores.T, dtype=np.float32)
