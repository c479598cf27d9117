"""Figures: what they draw and say. How they look was judged by eye."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from tasks.tracking.figures import Pairs, draw_agreement, draw_distribution, draw_error_by_slice
from validation.breakdowns import SliceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    Draw = Callable[[Pairs], Figure]

ENGINE_ID = "essay-scorer-cpu-int8@0123456789ab"


def _pairs(reference: Any, candidate: Any, **changes: Any) -> Pairs:
    fields = {"engine_id": ENGINE_ID, "name": "score", "seen": len(reference)}
    return Pairs(reference=np.asarray(reference), candidate=np.asarray(candidate), **(fields | changes))


@pytest.fixture
def pairs() -> Pairs:
    rng = np.random.default_rng(1)
    reference = rng.beta(2, 1, 400)
    return _pairs(reference, reference + rng.normal(0.05, 0.02, 400), low=0.0, high=1.0)


def _texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, metadata={"Software": None})
    return buffer.getvalue()


def test_the_gap_is_marked_where_the_distributions_are_widest_apart(pairs: Pairs) -> None:
    figure = draw_distribution(pairs)
    expected = ks_2samp(pairs.reference, pairs.candidate)
    cumulated = figure.axes[1]
    mark = next(line for line in cumulated.lines if line.get_marker() == "_")
    assert mark.get_xdata()[0] == pytest.approx(expected.statistic_location)
    assert abs(np.subtract(*mark.get_ydata())) == pytest.approx(expected.statistic)
    assert f"widest gap = {expected.statistic:.4f}" in _texts(figure)


def test_the_gap_is_exact_where_the_curves_are_thinned() -> None:
    rng = np.random.default_rng(2)
    reference, candidate = rng.normal(size=20_000), rng.normal(0.01, 1, size=20_000)
    figure = draw_distribution(_pairs(reference, candidate))
    assert f"widest gap = {ks_2samp(reference, candidate).statistic:.4f}" in _texts(figure)
    assert max(len(line.get_xdata()) for line in figure.axes[1].lines) <= 4_003


def test_the_text_quotes_the_measured_d_where_only_a_part_is_drawn(pairs: Pairs) -> None:
    figure = draw_distribution(_pairs(pairs.reference, pairs.candidate, seen=10_000, metrics={"ks": 0.1234}))
    assert "D = 0.1234" in _texts(figure)
    assert "400 of 10,000 drawn" in _texts(figure)


@pytest.mark.parametrize("draw", [draw_distribution, draw_agreement])
def test_axes_are_labelled_and_the_engine_is_named(pairs: Pairs, draw: Draw) -> None:
    figure = draw(pairs)
    assert ENGINE_ID in _texts(figure)
    assert "n = 400" in _texts(figure)
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[0].get_legend() is not None


def test_the_same_data_draw_the_same_bytes(pairs: Pairs) -> None:
    assert _png(draw_agreement(pairs)) == _png(draw_agreement(pairs))


def test_the_scatter_has_a_bounded_number_of_points() -> None:
    values = np.linspace(0, 1, 60_000)
    figure = draw_agreement(_pairs(values, values))
    assert len(figure.axes[0].collections[0].get_offsets()) <= 5_000


def test_the_agreement_quotes_the_measured_errors(pairs: Pairs) -> None:
    metrics = {"mae": 0.0512, "max_abs": 0.11, "pearson": 0.999987}
    texts = _texts(draw_agreement(_pairs(pairs.reference, pairs.candidate, metrics=metrics)))
    assert "MAE = 0.0512" in texts
    assert "r = 0.99999" in texts


def test_one_outlier_does_not_squash_the_axis() -> None:
    reference = np.linspace(0, 1, 500)
    candidate = reference.copy()
    candidate[3] = 1e6
    figure = draw_distribution(_pairs(reference, candidate))
    assert figure.axes[0].get_xlim()[1] < 3
    assert "1 candidate value beyond" in _texts(figure)


def test_a_candidate_that_is_shifted_is_shown_whole() -> None:
    reference = np.linspace(0, 1, 500)
    figure = draw_distribution(_pairs(reference, reference + 0.7))
    assert figure.axes[0].get_xlim()[1] > 1.7
    assert "beyond" not in _texts(figure)


@pytest.mark.parametrize("values", [[3.0, 3.0, 3.0], [0.0], [1e-30, 2e-30], [-5.0, 1e9]])
@pytest.mark.parametrize("draw", [draw_distribution, draw_agreement])
def test_degenerate_values_can_be_drawn(values: Any, draw: Draw) -> None:
    assert _png(draw(_pairs(values, values)))


def _errors(values: Any) -> list[SliceError]:
    return [SliceError(slice="level", value=value, output="score", n=i + 1, mae=0.01 * i) for i, value in values]


def test_slices_are_in_the_order_of_their_numbers_with_their_counts() -> None:
    figure = draw_error_by_slice(ENGINE_ID, _errors(enumerate(["10", "9", "2"])), 0.01)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["2  (n = 3)", "9  (n = 2)", "10  (n = 1)"]
    assert "mean of all samples = 0.01" in _texts(figure)


def test_of_many_slice_values_the_worst_are_drawn() -> None:
    figure = draw_error_by_slice(ENGINE_ID, _errors(enumerate(map(str, range(100)))), None)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == 30
    assert labels[0].startswith("70 ")
    assert "the 30 worst of 100 values" in _texts(figure)


def test_slices_without_any_error_can_be_drawn() -> None:
    assert _png(draw_error_by_slice(ENGINE_ID, _errors([(0, "only")]), 0.0))
