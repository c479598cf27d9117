"""The catalogue of metrics: what each one means, which way is better, and where it comes from."""

from collections.abc import Mapping
from types import MappingProxyType

from validation.catalogue import Bound, Direction, Metric, Reading, entry, undefined
from validation.kinds import KINDS
from validation.outputs import OutputKind

__all__ = ["METRICS", "Bound", "Direction", "Metric", "Reading", "metrics_of", "undefined"]

_SCORE = frozenset({OutputKind.SCORE})
_CLASSES = frozenset({OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LANGUAGE})
_ANSWERS = _CLASSES | {OutputKind.LABELS}
_VECTORS = frozenset({OutputKind.EMBEDDING})
_TENSORS = frozenset({OutputKind.TENSOR})
_DISTRIBUTED = _SCORE | _CLASSES
_EVERY = _DISTRIBUTED | _VECTORS | {OutputKind.TENSOR, OutputKind.MULTILABEL}
_LOWER, _HIGHER = Direction.LOWER_IS_BETTER, Direction.HIGHER_IS_BETTER
_SIGNED = Direction.NEARER_ZERO_IS_BETTER
_LN2 = 0.6931471805599453
_CORRELATION = "undefined where a side is constant; 1 where both are, and equal"

_CATALOGUE = (
    entry(
        "mae", _EVERY, _LOWER, "mean absolute error, in the output's unit", "Willmott and Matsuura 2005, Clim. Res. 30"
    ),
    entry(
        "rmse",
        _EVERY,
        _LOWER,
        "root mean square error, in the output's unit",
        "Chai and Draxler 2014, Geosci. Model Dev. 7",
    ),
    entry(
        "max_abs",
        _EVERY | {OutputKind.LABELS},
        _LOWER,
        "largest absolute error of any element, in the output's unit; judged as observed, since no sample bounds it",
        "Chebyshev distance",
        bound=Bound.OBSERVED,
    ),
    entry(
        "p99_abs",
        _EVERY,
        _LOWER,
        "99th percentile over samples of a sample's largest absolute error, in the output's unit",
        "order statistics, Thompson 1936, Ann. Math. Stat. 7",
        quantile=0.99,
    ),
    entry(
        "relative_l2",
        _EVERY,
        _LOWER,
        "norm of the error over the norm of the reference",
        "Golub and Van Loan 2013, section 2.2",
        constant="undefined where the reference is zero throughout; 0 where both sides are",
    ),
    entry(
        "p99_sd",
        _SCORE,
        _LOWER,
        "99th percentile over samples of a sample's largest absolute error, in standard deviations of the reference",
        "as p99_abs, over the scale of smd",
        least_n=3,
        constant="undefined where the reference is constant; 0 where the candidate equals it",
        quantile=0.99,
    ),
    entry(
        "median_sd",
        _SCORE,
        _SIGNED,
        "median over samples of candidate minus reference, in standard deviations of the reference: what all share",
        "order statistics, Thompson 1936; the scale of smd",
        least_n=3,
        constant="undefined where the reference is constant; 0 where the candidate equals it",
        quantile=0.5,
    ),
    entry(
        "relative_l2_p99",
        _TENSORS,
        _LOWER,
        "99th percentile over samples of the norm of a sample's error, over the root mean square norm of references",
        "as relative_l2; order statistics",
        constant="undefined where the reference is zero throughout; 0 where both sides are",
        quantile=0.99,
    ),
    entry(
        "cosine",
        _EVERY,
        _HIGHER,
        "cosine of the angle between reference and candidate; of embeddings the mean over vectors (the last axis)",
        "Salton and McGill 1983",
        worst=-1.0,
        constant="undefined where a side is zero throughout, 1 where both are; an embedding's zero vector has 0 with"
        " any but another zero vector",
    ),
    entry("bias", _SCORE, _SIGNED, "mean of candidate minus reference, in the output's unit", "Bland and Altman 1986"),
    entry(
        "pearson",
        _SCORE,
        _HIGHER,
        "Pearson's r",
        "Pearson 1895, Proc. R. Soc. 58",
        worst=-1.0,
        least_n=3,
        constant=_CORRELATION,
    ),
    entry(
        "spearman",
        _SCORE,
        _HIGHER,
        "Spearman's rho: Pearson's r of the ranks, equal values sharing their mean rank",
        "Spearman 1904, Am. J. Psychol. 15",
        worst=-1.0,
        least_n=3,
        constant=_CORRELATION,
        sums=False,
    ),
    entry(
        "ks",
        _DISTRIBUTED,
        _LOWER,
        "two-sample Kolmogorov-Smirnov D; of logits and probabilities: D of the top-1 confidence, a move of which"
        " by 0.01 counts as none",
        "Smirnov 1948, Ann. Math. Stat. 19; bounds: validation/distributions.py",
        worst=1.0,
        share=True,
        sums=False,
    ),
    entry(
        "ks_pvalue",
        _DISTRIBUTED,
        _HIGHER,
        "p-value of D for independent samples; the pairs here are not, so log it rather than gate on it",
        "Gnedenko and Korolyuk 1951 up to n = 10,000, Smirnov's limit beyond; Holm 1979 over rules",
        worst=0.0,
        bound=Bound.PVALUE,
        sums=False,
    ),
    entry(
        "wasserstein",
        _SCORE,
        _LOWER,
        "Wasserstein distance of order 1 between the distributions, in the output's unit",
        "Kantorovich and Rubinstein 1958; bounds: validation/distributions.py",
        sums=False,
    ),
    entry(
        "smd",
        _SCORE,
        _SIGNED,
        "standardised mean difference: candidate's mean minus the reference's, over the root of their mean variance",
        "Cohen 1988; Williamson, Xi and Breyer 2012, Educ. Meas. 31",
        least_n=2,
        constant="undefined where both sides are constant; 0 where they are equal",
    ),
    entry(
        "kl",
        _DISTRIBUTED,
        _LOWER,
        "KL(reference || candidate) in nats: of a score's values in bins at the reference's deciles; of logits and"
        " probabilities the mean over samples, classes on their axis",
        "Kullback and Leibler 1951, Ann. Math. Stat. 22; deciles: Siddiqi 2006; half a count a bin: Krichevsky and"
        " Trofimov 1981",
        constant="undefined where a score's reference is constant; 0 where the candidate equals it",
        sums=False,
    ),
    entry(
        "kl_p99",
        _CLASSES,
        _LOWER,
        "99th percentile over samples of KL(reference || candidate), in nats",
        "as kl; order statistics",
        quantile=0.99,
    ),
    entry(
        "js",
        _CLASSES,
        _LOWER,
        "Jensen-Shannon divergence in nats, mean over samples",
        "Lin 1991, IEEE Trans. Inf. Theory 37",
        worst=_LN2,
    ),
    entry(
        "top1_agreement",
        _CLASSES,
        _HIGHER,
        "share of samples whose most likely class is the reference's (ties: the lowest class)",
        "fidelity of Stanton et al. 2021, Does Knowledge Distillation Really Work?",
        worst=0.0,
        share=True,
    ),
    entry(
        "top5_agreement",
        _CLASSES,
        _HIGHER,
        "share of samples whose five most likely classes hold the reference's most likely one; needs six classes",
        "as top1_agreement; top-5 as in Russakovsky et al. 2015",
        worst=0.0,
        share=True,
    ),
    entry(
        "cosine_p1",
        _VECTORS,
        _HIGHER,
        "1st percentile over samples of the cosine",
        "as cosine; order statistics",
        worst=-1.0,
        quantile=0.01,
    ),
    entry(
        "retrieval_overlap@10",
        _VECTORS,
        _HIGHER,
        "share of a sample's 10 nearest neighbours by cosine that the candidate keeps, among up to 2,048 samples",
        "overlap of top-k lists, Fagin, Kumar and Sivakumar 2003",
        worst=0.0,
        least_n=12,
        sums=False,
    ),
    entry(
        "mae_drop",
        _SCORE,
        _LOWER,
        "the candidate's mean absolute error against the labels minus the reference's, in the output's unit",
        "as mae",
        needs_label=True,
    ),
    entry(
        "qwk_drop",
        _SCORE,
        _LOWER,
        "the reference's quadratic weighted kappa with the labels minus the candidate's; scores count as the nearest"
        " of the labels' values",
        "Cohen 1968, Psychol. Bull. 70; Williamson, Xi and Breyer 2012",
        worst=2.0,
        least_n=2,
        constant="undefined where labels and scores are one grade",
        needs_label=True,
        share=True,
        sums=False,
    ),
    entry(
        "accuracy_drop",
        _ANSWERS,
        _LOWER,
        "the reference's share of right answers minus the candidate's",
        "accuracy",
        worst=1.0,
        needs_label=True,
        share=True,
    ),
    entry(
        "ece_drop",
        _CLASSES,
        _LOWER,
        "the candidate's expected calibration error minus the reference's, in 15 bins of equal width",
        "Guo et al. 2017, On Calibration of Modern Neural Networks",
        worst=1.0,
        needs_label=True,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {metric.name: metric for metric in (*_CATALOGUE, *(own for row in KINDS.values() for own in row.metrics))}
)
"""Every metric by name, in the order in which they are reported."""


def metrics_of(kind: OutputKind) -> tuple[Metric, ...]:
    """The metrics that an output of this kind has, in the catalogue's order."""
    return tuple(metric for metric in METRICS.values() if kind in metric.kinds)
