"""Every metric made anew of SciPy, scikit-learn, statsmodels and plain loops, to test the gate's own against."""

from __future__ import annotations

import numpy as np
from scipy import special, stats
from scipy.spatial import distance
from sklearn import metrics
from sklearn.neighbors import NearestNeighbors
from statsmodels.stats.meta_analysis import effectsize_smd

Values = dict[str, float]


def errors(r: np.ndarray, c: np.ndarray) -> Values:
    """What every numeric output has, of `[n, ...]` a side."""
    a, b = r.ravel().astype(float), c.ravel().astype(float)
    largest = np.abs(r.astype(float) - c).reshape(len(r), -1).max(axis=1)
    return {
        "mae": metrics.mean_absolute_error(a, b),
        "rmse": metrics.root_mean_squared_error(a, b),
        "max_abs": metrics.max_error(a, b),
        "p99_abs": np.quantile(largest, 0.99, method="inverted_cdf"),
        "relative_l2": np.linalg.norm(b - a) / np.linalg.norm(a),
        "cosine": 1 - distance.cosine(a, b),
    }


def relative_quantile(r: np.ndarray, c: np.ndarray) -> float:
    """The 99th percentile of the norms of `[n, ...]` errors, over the root mean square of the references' norms."""
    norms = np.array([np.linalg.norm(np.asarray(b - a, dtype=float)) for a, b in zip(r, c, strict=True)])
    lengths = [np.linalg.norm(np.asarray(a, dtype=float)) for a in r]
    return float(
        np.quantile(norms, 0.99, method="inverted_cdf") / metrics.root_mean_squared_error(lengths, [0] * len(r))
    )


def scores(r: np.ndarray, c: np.ndarray, label: np.ndarray) -> Values:
    """Every metric of a column of scores, `[n]` each."""
    r, c = r.astype(float), c.astype(float)
    scipys = stats.ks_2samp(c, r, method="exact")
    return errors(r, c) | {
        "median_sd": np.quantile(c - r, 0.5, method="inverted_cdf") / r.std(),
        "p99_sd": np.quantile(np.abs(r - c), 0.99, method="inverted_cdf") / r.std(),
        "bias": c.mean() - r.mean(),
        "pearson": stats.pearsonr(r, c).statistic,
        "spearman": stats.spearmanr(r, c).statistic,
        "ks": scipys.statistic,
        "ks_pvalue": scipys.pvalue,
        "wasserstein": stats.wasserstein_distance(r, c),
        "smd": standardised_difference(r, c),
        "kl": kl_by_deciles(r, c),
        "mae_drop": metrics.mean_absolute_error(label, c) - metrics.mean_absolute_error(label, r),
        "qwk_drop": kappa(label, r) - kappa(label, c),
    }


def standardised_difference(r: np.ndarray, c: np.ndarray) -> float:
    """Cohen's d by statsmodels, less its correction for small samples."""
    n = r.size
    corrected, _ = effectsize_smd(c.mean(), c.std(), n, r.mean(), r.std(), n)
    return corrected / (1 - 3 / (4 * 2 * n - 9))


def kl_by_deciles(r: np.ndarray, c: np.ndarray) -> float:
    """SciPy's entropy of counts in bins that each begin at the first new value of a tenth of the reference."""
    ordered = sorted(r.tolist())
    firsts = sorted({ordered[k * len(ordered) // 10] for k in range(1, 10)} - {ordered[0]})
    firsts = firsts or [next(x for x in ordered if x > ordered[0])]
    counts = np.zeros((2, len(firsts) + 1))
    for side, numbers in enumerate((r, c)):
        for number in numbers:
            # A value counts to the bin whose values of the reference it is nearer to.
            edges = [(first + max(x for x in ordered if x < first)) / 2 for first in firsts]
            counts[side, sum(number >= edge for edge in edges)] += 1
    return stats.entropy(*(counts + 0.5))


def kappa(label: np.ndarray, scores_: np.ndarray) -> float:
    """scikit-learn's quadratic weighted kappa, each score taken as the nearest of the labels' values."""
    grades = np.unique(label)
    places = [np.abs(side[:, None] - grades).argmin(axis=1) for side in (label, scores_)]
    return metrics.cohen_kappa_score(*places, labels=np.arange(grades.size), weights="quadratic")


def classes(p: np.ndarray, q: np.ndarray, label: np.ndarray) -> Values:
    """Every metric of the distributions `[n, classes]`, but for the errors of the output itself."""
    names = np.arange(p.shape[1])
    first = p.argmax(axis=1)
    divergence = special.rel_entr(p, q).sum(axis=1)
    sure, surer = p.max(axis=1), q.max(axis=1)
    scipys = stats.ks_2samp(sure, np.where(abs(sure - surer) <= 0.01, sure, surer), method="exact")
    right = [metrics.accuracy_score(label, side.argmax(axis=1)) for side in (p, q)]
    return {
        "kl": divergence.mean(),
        "kl_p99": np.quantile(divergence, 0.99, method="inverted_cdf"),
        "js": (distance.jensenshannon(p, q, axis=1) ** 2).mean(),
        "top1_agreement": metrics.top_k_accuracy_score(first, q, k=1, labels=names),
        "top5_agreement": metrics.top_k_accuracy_score(first, q, k=5, labels=names),
        "ks": scipys.statistic,
        "ks_pvalue": scipys.pvalue,
        "accuracy_drop": right[0] - right[1],
        "ece_drop": calibration_error(q, label) - calibration_error(p, label),
    }


def calibration_error(p: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error in 15 bins, one sample after another."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for row, wanted in zip(p, label, strict=True):
        confidence = max(row)
        right = float(list(row).index(confidence) == wanted)
        bins.setdefault(min(int(confidence * 15), 14), []).append((confidence, right))
    return sum(abs(np.mean([c - r for c, r in found])) * len(found) for found in bins.values()) / len(p)


def embeddings(r: np.ndarray, c: np.ndarray) -> Values:
    """Every metric of `[n, dimensions]` a side."""
    cosines = np.array([1 - distance.cosine(a, b) for a, b in zip(r.astype(float), c.astype(float), strict=True)])
    found = [
        NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(side).kneighbors(return_distance=False)
        for side in (r, c)
    ]
    kept = [len(set(a) & set(b)) / 10 for a, b in zip(*found, strict=True)]
    return errors(r, c) | {
        "cosine": cosines.mean(),
        "cosine_p1": np.quantile(cosines, 0.01, method="inverted_cdf"),
        "retrieval_overlap@10": np.mean(kept),
    }
