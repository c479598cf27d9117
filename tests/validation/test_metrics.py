import pytest

from validation.kinds import KINDS
from validation.metrics import METRICS, Bound, Direction, Metric, metrics_of, undefined
from validation.outputs import OutputKind

ANY = {"mae", "rmse", "max_abs", "p99_abs", "relative_l2", "cosine"}
SCORES = {"bias", "pearson", "spearman", "ks", "ks_pvalue", "wasserstein", "smd", "kl", "qwk_drop", "mae_drop"}
SCORES |= {"p99_sd", "median_sd"}
CLASSES = {"kl", "kl_p99", "js", "top1_agreement", "top5_agreement", "ks", "ks_pvalue", "accuracy_drop", "ece_drop"}


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (OutputKind.SCORE, SCORES),
        (OutputKind.LOGITS, CLASSES),
        (OutputKind.PROBABILITIES, CLASSES),
        (OutputKind.EMBEDDING, {"cosine_p1", "retrieval_overlap@10"}),
        (OutputKind.TENSOR, {"relative_l2_p99"}),
        (OutputKind.MULTILABEL, {"decision_agreement", "set_agreement", "f1_agreement", "f1_drop"}),
        (OutputKind.LANGUAGE, CLASSES | {"perplexity_ratio", "nll_drop"}),
    ],
)
def test_every_kind_of_numbers_has_its_own_metrics_and_those_of_any_number(kind: OutputKind, own: set[str]) -> None:
    assert {metric.name for metric in metrics_of(kind)} == ANY | own


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (OutputKind.LABELS, {"agreement", "max_abs", "accuracy_drop"}),
        (OutputKind.SEGMENTATION, {"agreement", "iou_agreement", "class_agreement", "iou_drop"}),
        (OutputKind.BOXES, {"box_f1", "box_quality", "box_f1_drop", "map_drop"}),
        (OutputKind.CTC, {"agreement", "text_agreement", "edit_distance", "error_rate_drop"}),
    ],
)
def test_what_is_decided_has_no_metric_of_sizes(kind: OutputKind, own: set[str]) -> None:
    assert {metric.name for metric in metrics_of(kind)} == own


def test_every_kind_has_a_row() -> None:
    assert set(KINDS) == set(OutputKind)


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_declares_what_a_reader_needs(metric: Metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.description
    assert metric.source
    assert metric.constant
    assert metric.least_n >= 1
    is_one = metric.direction is Direction.HIGHER_IS_BETTER or metric.name.endswith("_ratio")
    assert metric.ideal == (1.0 if is_one else 0.0)
    assert metric.worst is None or (metric.worst < metric.ideal) == (metric.direction is Direction.HIGHER_IS_BETTER)
    assert metric.needs_label == metric.name.endswith("_drop")
    assert (metric.quantile is not None) == bool({"p99", "p1", "median"} & set(metric.name.split("_")))


def test_only_the_p_value_and_the_maximum_are_not_judged_by_their_interval() -> None:
    assert {name: m.bound for name, m in METRICS.items() if m.bound is not Bound.INTERVAL} == {
        "max_abs": Bound.OBSERVED,
        "ks_pvalue": Bound.PVALUE,
    }
    assert {name for name, m in METRICS.items() if m.direction is Direction.NEARER_ZERO_IS_BETTER} == {
        "bias",
        "smd",
        "median_sd",
    }


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        METRICS["mae"] = METRICS["kl"]


def test_an_undefined_reading_has_no_value_and_no_bounds() -> None:
    reading = undefined(3, "why")
    assert (reading.value, reading.n, reading.note, reading.interval.low, reading.interval.high) == (
        None,
        3,
        "why",
        None,
        None,
    )
