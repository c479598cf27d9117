import pytest

from validation.metrics import METRICS, Direction, Metric, metrics_of, read
from validation.outputs import OutputKind


@pytest.mark.parametrize("kind", OutputKind)
def test_every_kind_of_output_has_the_six_metrics_of_the_gate(kind: OutputKind) -> None:
    assert {"mae", "max_abs", "pearson", "ks", "ks_pvalue", "kl"} <= {metric.name for metric in metrics_of(kind)}


def test_only_a_score_has_an_error_as_a_share_of_its_range() -> None:
    assert METRICS["mae_range"].kinds == {OutputKind.SCORE}


def test_only_classes_have_a_top1_agreement() -> None:
    assert METRICS["top1_agreement"].kinds == {OutputKind.LOGITS, OutputKind.PROBABILITIES}


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_declares_what_a_reader_needs(metric: Metric) -> None:
    assert metric.description
    assert metric.source
    assert metric.least_n >= 1
    better_at_the_bottom = metric.direction is Direction.LOWER_IS_BETTER
    assert metric.ideal == (0.0 if better_at_the_bottom else 1.0)
    assert metric.worst is None or (metric.worst > metric.ideal) == better_at_the_bottom


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        METRICS["mae"] = METRICS["kl"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_read_as_undefined(value: float) -> None:
    reading = read(value, 3)
    assert reading.value is None
    assert reading.note == "not a finite number"


def test_an_undefined_value_always_has_a_note() -> None:
    assert read(None, 3).note
