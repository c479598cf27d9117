import pytest

from validation.outputs import OutputKind, OutputSpec


def test_a_declared_range_has_a_span() -> None:
    assert OutputSpec(kind=OutputKind.SCORE, low=1, high=6).span == 5


def test_without_a_range_there_is_no_span() -> None:
    assert OutputSpec(kind=OutputKind.SCORE).span is None


@pytest.mark.parametrize(("low", "high"), [(0, None), (None, 1)])
def test_half_a_range_is_refused(low: float | None, high: float | None) -> None:
    with pytest.raises(ValueError, match="one end is missing"):
        OutputSpec(kind=OutputKind.SCORE, low=low, high=high)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (1, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_out_of_order_or_not_finite_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="is no interval"):
        OutputSpec(kind=OutputKind.SCORE, low=low, high=high)


def test_a_score_has_no_padding_to_mask() -> None:
    with pytest.raises(ValueError, match="mask: a score has no positions for attention to leave out; remove it"):
        OutputSpec(kind=OutputKind.SCORE, mask="attention")
    assert OutputSpec(kind=OutputKind.EMBEDDING, mask="attention").mask == "attention"
