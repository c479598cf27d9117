"""Which layers INT8 hurts, on a model with one that cannot be quantized. How the figure looks was judged by eye."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pytest

from tasks.errors import StageError
from tasks.quantization.loss import Loss, LossRequest, RuleLoss, loss_in_child
from tasks.quantization.sensitivity import (
    SENSITIVITY_SAMPLES,
    LayerSensitivity,
    Sensitivity,
    measure_sensitivity,
    rank_layers,
)
from tasks.quantization.sensitivity_figure import draw_sensitivity
from tasks.records import DataArtifact, ExportedModel
from tasks.specs import CalibrationMethod, CalibrationSpec, ModelSpec, Precision
from tasks.stages.convert import convert_precision
from tasks.store.local import LocalStore
from tests.tasks.in_process import InProcess
from tests.tasks.models import huge_channels_directory as huge
from tests.tasks.models.directories import store_shards

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from tasks.process.context import StageContext
    from tasks.store.stage_cache import StageResult


@dataclass(frozen=True)
class Case:
    context: StageContext
    exported: ExportedModel
    spec: ModelSpec
    calibration: DataArtifact
    data: DataArtifact

    def measure(self, method: CalibrationMethod | None = None) -> StageResult[Sensitivity]:
        return measure_sensitivity(self.context, self.exported, self.spec, self.calibration, self.data, method=method)

    def loss_without(self, exclude: tuple[str, ...]) -> Loss:
        """The loss of an INT8 conversion, on the samples on which sensitivity is measured."""
        typed = convert_precision(
            self.context, self.exported, Precision.INT8, self.spec, self.calibration, exclude=exclude
        ).result
        store = self.context.store
        with store.scratch() as folder:
            request = LossRequest(
                exported=store.fetch(self.exported.onnx, folder / "exported") / "model.onnx",
                quantized=store.fetch(typed.onnx, folder / "typed") / "model.onnx",
                samples=store.fetch(self.data.inputs, folder / "data"),
                spec=self.spec,
                most_samples=SENSITIVITY_SAMPLES,
            )
            return loss_in_child(request.model_dump(mode="json"), lambda _done, _total: None)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    store = LocalStore(tmp_path_factory.mktemp("huge") / "store")
    with store.scratch() as folder:
        huge.write_onnx(folder / "onnx")
        exported = ExportedModel(onnx=store.put(folder / "onnx"), opset=17, checks={})
    return Case(
        context=InProcess(store),
        exported=exported,
        spec=ModelSpec.model_validate(huge.SPEC),
        calibration=store_shards(store, [huge.make_samples(128, seed=3)]),
        data=store_shards(store, [huge.make_samples(200, seed=2), huge.make_samples(200, seed=4)]),
    )


@pytest.fixture(scope="module")
def measured(case: Case) -> Sensitivity:
    return case.measure().result


def test_the_graph_made_by_hand_computes_what_numpy_does(tmp_path: Path) -> None:
    samples, weights = huge.make_samples(50, seed=9), huge.make_weights()
    session = ort.InferenceSession(huge.write_onnx(tmp_path / "onnx"), providers=["CPUExecutionProvider"])
    logit = huge.hidden_of(weights, samples["features"]) @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(session.run(None, samples)[0], 1 / (1 + np.exp(-logit[:, 0])), atol=1e-4)


def test_the_layer_that_cannot_be_quantized_is_first_by_far(measured: Sensitivity) -> None:
    worst, second = (layer.loss for layer in measured.layers[:2])
    assert measured.ranked[0] == huge.BROKEN
    assert worst is not None
    assert second is not None
    assert worst > 4
    assert second < 1
    assert len(measured.layers) == huge.LAYERS
    assert "head" not in measured.ranked
    assert {layer.op_type for layer in measured.layers} == {"Gemm"}
    assert measured.samples == SENSITIVITY_SAMPLES


def test_without_that_layer_int8_is_within_its_limits_and_with_it_not(case: Case, measured: Sensitivity) -> None:
    assert (case.loss_without(()).loss or 0) > 1
    assert (case.loss_without(measured.ranked[:1]).loss or 0) < 1
    assert (huge.LAYERS - 1) / huge.LAYERS >= 0.8


def test_the_loss_of_a_layer_is_that_of_a_conversion_without_all_others(case: Case, measured: Sensitivity) -> None:
    layer = measured.layers[3]
    alone = case.loss_without(tuple(name for name in measured.ranked if name != layer.node))
    assert layer.loss == pytest.approx(alone.loss)
    assert layer.mean_loss == pytest.approx(alone.rank[1])


def test_a_second_measurement_does_no_work_and_another_method_does(case: Case, measured: Sensitivity) -> None:
    again = case.measure()
    assert again.cached
    assert again.result == measured
    assert case.measure(CalibrationMethod.MINMAX).cached
    assert case.measure(CalibrationMethod.MAX).cached, "its ranges are those of minmax"
    steps: list[tuple[int, int]] = []
    told = replace(case, context=replace(case.context, on_progress=lambda done, total: steps.append((done, total))))
    other = told.measure(CalibrationMethod.PERCENTILE)
    assert not other.cached
    assert other.result.method is CalibrationMethod.PERCENTILE
    assert steps == [(number, huge.LAYERS + 1) for number in range(1, huge.LAYERS + 2)]


@pytest.mark.parametrize("method", [CalibrationMethod.MAX, CalibrationMethod.AUTO])
def test_a_method_that_onnx_runtime_has_not_is_replaced_and_the_record_says_so(
    case: Case, measured: Sensitivity, method: CalibrationMethod
) -> None:
    spec = case.spec.model_copy(update={"calibration": CalibrationSpec(set="x", method=method)})
    found = replace(case, spec=spec).measure().result
    assert found.method is CalibrationMethod.MINMAX
    assert found == measured


def test_a_model_quantized_in_training_has_no_layers_to_measure(case: Case) -> None:
    typed = convert_precision(case.context, case.exported, Precision.INT8, case.spec, case.calibration).result
    exported = case.exported.model_copy(update={"onnx": typed.onnx})
    with pytest.raises(StageError, match="quantized in training"):
        replace(case, exported=exported).measure()


def layer(number: int, loss: float | None, mean: float | None = 0.1) -> LayerSensitivity:
    worst = RuleLoss(output="score", metric="mae", limit=0.02, value=None if loss is None else 0.02 * loss, loss=loss)
    return LayerSensitivity(node=f"layer{number}", op_type="Conv", loss=loss, mean_loss=mean, worst=worst)


def test_an_infinite_loss_is_the_worst_and_equals_are_told_apart_by_their_mean() -> None:
    layers = [layer(0, 0.5), layer(1, 0.5, 0.2), layer(2, 7.0), layer(3, None, None), layer(4, 0.5)]
    assert [each.node for each in rank_layers(layers)] == ["layer3", "layer2", "layer1", "layer0", "layer4"]


def draw(path: Path, *losses: float | None) -> Figure:
    layers = rank_layers([layer(number, loss) for number, loss in enumerate(losses)])
    figure = draw_sensitivity(Sensitivity(layers=layers, samples=128, method=CalibrationMethod.MINMAX), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return figure


def ticks(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_bars_are_as_long_as_losses_and_named_by_layer(tmp_path: Path) -> None:
    figure = draw(tmp_path / "figure.png", 0.4, 2.0, 1.5)
    axes = figure.axes[0]
    assert ticks(figure) == ["layer1  (Conv)", "layer2  (Conv)", "layer0  (Conv)"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([2.0, 1.5, 0.4])
    assert axes.get_xscale() == "linear"
    assert [text.get_text() for text in axes.texts] == ["2  score mae", "1.5  score mae", "0.4  score mae"]


def test_losses_of_several_decades_are_drawn_on_a_log_axis(tmp_path: Path) -> None:
    axes = draw(tmp_path / "figure.png", 40.0, 0.01, 0.0, 0.02).axes[0]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert 0 < low < 0.01
    assert high > 40
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == pytest.approx([40.0, 0.02, 0.01, low])


def test_an_infinite_loss_has_a_bar_across_the_axis(tmp_path: Path) -> None:
    axes = draw(tmp_path / "figure.png", 0.5, None).axes[0]
    assert axes.patches[0].get_width() == axes.get_xlim()[1]
    assert axes.texts[0].get_text() == "infinite  score mae"


def test_the_thirty_worst_of_many_are_drawn_and_the_title_says_so(tmp_path: Path) -> None:
    figure = draw(tmp_path / "figure.png", *(0.5 + 0.01 * number for number in range(42)))
    assert len(figure.axes[0].patches) == 30
    assert ticks(figure)[0] == "layer41  (Conv)"
    assert "the 30 worst of 42 layers" in figure.axes[0].get_title()


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0.5, 2.0)
    draw(tmp_path / "b.png", 0.5, 2.0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
