from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tasks.calibration.activations import Batch, Clipping, Ranges, WatchedModel, batches, chance_beyond
from tasks.calibration.interface import DataSet
from tasks.calibration.report import Place
from tasks.declared import Dim
from tasks.errors import StageError
from tasks.samples.npz import save_shard

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 16
WEIGHT = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
STREET = Place(stratum="noise", value="street")
QUIET = Place(stratum="noise", value="quiet")


def write_graph(folder: Path, body: str, outputs: str = "float[batch, n] y") -> Path:
    """A graph of `x` [batch, 16] with the weight `w` [16, 16]."""
    folder.mkdir()
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> graph (float[batch, {WIDTH}] x) => ({outputs}) {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    onnx.save(model, folder / "model.onnx")
    (folder / "watched").mkdir()
    return folder / "model.onnx"


def watched(tmp_path: Path, body: str, **options: str) -> WatchedModel:
    path = write_graph(tmp_path / "graph", body, **options)
    return WatchedModel(path, path.parent / "watched")


def batch_of(real: int, strata: dict[str, list[str]] | None = None, **feeds: Any) -> Batch:
    texts = {name: np.array(values, dtype=np.str_) for name, values in (strata or {}).items()}
    return Batch({name: np.asarray(array) for name, array in feeds.items()}, real, texts)


def samples(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def test_inputs_of_matrix_products_are_watched_and_nothing_else(tmp_path: Path) -> None:
    model = watched(tmp_path, "h = MatMul(x, w)  r = Relu(h)  s = Sigmoid(r)  y = MatMul(r, w)")
    outputs, tensors = model.run(batch_of(3, x=samples(3)))
    assert set(tensors) == {"x", "r"}
    assert set(outputs) == {"y"}
    assert tensors["r"] == pytest.approx(np.maximum(samples(3) @ WEIGHT, 0), abs=1e-4)
    assert np.array_equal(tensors["x"], samples(3))


def test_what_fills_a_batch_up_is_cut_off(tmp_path: Path) -> None:
    model = watched(tmp_path, "h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, w)")
    outputs, tensors = model.run(batch_of(2, x=samples(4)))
    assert [len(array) for array in (outputs["y"], tensors["x"], tensors["r"])] == [2, 2, 2]


def test_nodes_without_names_are_no_residual_additions(tmp_path: Path) -> None:
    body = "h = MatMul(x, w)  s = Shape(h)  t = Add(s, s)  u = Cast<to = 1>(t)  v = ReduceSum(u)  y = Add(h, v)"
    _, tensors = watched(tmp_path, body).run(batch_of(2, x=samples(2)))
    assert set(tensors) == {"x"}


def test_a_graph_that_does_not_take_the_batch_is_an_error(tmp_path: Path) -> None:
    model = watched(tmp_path, "y = MatMul(x, w)")
    with pytest.raises(StageError, match=r"cannot run the reference on x \[2, 3\]"):
        model.run(batch_of(2, x=np.zeros((2, 3), np.float32)))


def row_of(calibration: Any, batch: Batch, tensor: Any, strata: dict[str, list[str]] | None = None) -> Any:
    """The row of one tensor with this content in a batch of the set, of these strata, and in a batch of production."""
    ranges = Ranges()
    ranges.add({"t": np.asarray(calibration)}, batch_of(len(calibration), strata))
    clipping = Clipping(ranges)
    clipping.add({"t": np.asarray(tensor)}, batch)
    (row,) = clipping.rows()
    return row


def test_the_error_of_clipping_is_what_is_cut_off_over_all_by_place() -> None:
    # Cut off at 2: of (3, 4) remains (2, 2), so 1 and 2 are lost. In all: 5 of 9 + 16 + 0 + 144 / 100.
    street, quiet = [3.0, -4.0], [0.0, 1.2]
    batch = batch_of(2, {"noise": ["street", "quiet"]})
    row = row_of([[1.0, -2.0]], batch, [street, quiet])
    assert (row.set_largest, row.production_largest) == (2.0, 4.0)
    assert row.clipped == pytest.approx((5 / 26.44) ** 0.5)
    assert row.worst == STREET
    assert row.worst_clipped == pytest.approx((5 / 25) ** 0.5)


def test_what_lies_within_the_range_costs_nothing() -> None:
    row = row_of([[1.0, -2.0]], batch_of(1, {"noise": ["quiet"]}), [[2.0, -2.0]])
    assert (row.clipped, row.worst_clipped, row.worst) == (0.0, 0.0, Place())


def test_a_tensor_that_the_set_left_at_zero_is_lost_altogether() -> None:
    row = row_of([[0.0]], batch_of(1), [[1e-3]])
    assert (row.set_largest, row.clipped) == (0.0, 1.0)


def test_zeros_are_not_clipped() -> None:
    row = row_of([[0.0]], batch_of(1), [[0.0]])
    assert (row.production_largest, row.clipped) == (0.0, 0.0)


def test_a_tensor_whose_first_axis_is_not_the_samples_counts_as_a_whole() -> None:
    batch = batch_of(2, {"noise": ["street", "quiet"]})
    row = row_of([1.0], batch, np.full((6, 1), 2.0))
    assert (row.clipped, row.worst, row.worst_clipped) == (0.5, Place(), 0.5)


def test_batches_add_up() -> None:
    ranges = Ranges()
    ranges.add({"t": np.array([[1.0]])}, batch_of(1))
    ranges.add({"t": np.array([[-3.0]])}, batch_of(1))
    clipping = Clipping(ranges)
    for value, noise in ((4.0, "street"), (3.0, "street"), (0.0, "quiet")):
        clipping.add({"t": np.array([[value]])}, batch_of(1, {"noise": [noise]}))
    (row,) = clipping.rows()
    assert row.clipped == pytest.approx((1 / 25) ** 0.5)


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_huge_values_are_no_overflow(value: float) -> None:
    row = row_of(np.array([[1.0]], np.float32), batch_of(1), np.array([[value]], np.float32))
    assert row.clipped == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_types_are_summed_wide(dtype: type) -> None:
    tensor = np.full((1, 4), 60_000, dtype)
    assert row_of(tensor / 2, batch_of(1), tensor).clipped == pytest.approx(0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_no_numbers_are_refused_on_both_sides(value: float) -> None:
    bad = {"t": np.array([[1.0], [value]])}
    ranges = Ranges()
    with pytest.raises(StageError, match=r"tensor t .* NaN or Inf in the calibration set"):
        ranges.add(bad, batch_of(2))
    ranges.add({"t": np.ones((1, 1))}, batch_of(1))
    clipping = Clipping(ranges)
    with pytest.raises(StageError, match=r"tensor t .* NaN or Inf in production"):
        clipping.add(bad, batch_of(2))


@given(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6))
def test_the_chance_of_samples_beyond_is_that_of_drawing_production_first(beyond: int, more: int, shown: int) -> None:
    production = max(beyond, more)
    orders = [Fraction(production - rank, production + shown - rank) for rank in range(beyond)]
    assert chance_beyond(beyond, production, shown) == pytest.approx(float(prod(orders)), rel=1e-9)


def many(street: int, quiet: int, *, loud: float) -> tuple[Any, dict[str, list[str]]]:
    tensor = np.concatenate([np.full((street, 1), loud), np.ones((quiet, 1))])
    return tensor, {"noise": ["street"] * street + ["quiet"] * quiet}


def test_one_sample_beyond_the_range_may_be_chance_and_many_are_not() -> None:
    ours, strata = many(30, 30, loud=1.0)
    for loud, evident in ((1, False), (25, True)):
        tensor, there = many(loud, 60 - loud, loud=9.0)
        row = row_of(ours, batch_of(60, there), tensor, strata)
        assert row.worst_clipped > 0.5
        assert row.evident == evident


def test_a_set_that_shows_little_of_what_production_is_made_of_proves_nothing() -> None:
    # Street is louder, and 5 of 100 in the set: 90 of 100 beyond is then no more than chance puts beyond five.
    ours, strata = many(5, 95, loud=2.0)
    tensor, there = many(100, 0, loud=2.0)
    tensor[:20] = 3.0
    assert not row_of(ours, batch_of(100, there), tensor, strata).evident
    ours, strata = many(50, 50, loud=2.0)
    assert row_of(ours, batch_of(100, there), tensor, strata).evident


def test_tensors_of_other_axes_are_counted_by_batches() -> None:
    ranges = Ranges()
    clipping = None
    for number in range(40):
        if number == 20:
            clipping = Clipping(ranges)
        if clipping is None:
            ranges.add({"t": np.ones((9, 1))}, batch_of(2))
        else:
            clipping.add({"t": np.full((9, 1), 2.0)}, batch_of(2))
    assert clipping is not None
    (row,) = clipping.rows()
    assert (row.evident, row.clipped, row.worst) == (True, 0.5, Place())


def test_two_draws_of_one_heavy_tailed_source_show_no_evidence() -> None:
    rng, found, large = np.random.default_rng(9), 0, 0
    for _ in range(200):
        ranges = Ranges()
        levels = {"level": [str(number % 6) for number in range(90)]}
        ranges.add({name: rng.standard_t(3, (90, 8)) for name in "abc"}, batch_of(90, levels))
        clipping = Clipping(ranges)
        there = {"level": [str(number % 6) for number in range(256)]}
        clipping.add({name: rng.standard_t(3, (256, 8)) for name in "abc"}, batch_of(256, there))
        found += any(row.evident for row in clipping.rows())
        large += any(row.worst_clipped > 0.05 for row in clipping.rows())
    assert found <= 10
    assert large > 180  # by the error alone, nearly all would be found


def test_tensors_without_elements_are_passed_over() -> None:
    ranges = Ranges()
    ranges.add({"t": np.zeros((2, 0))}, batch_of(2))
    clipping = Clipping(ranges)
    clipping.add({"t": np.zeros((2, 0))}, batch_of(2))
    assert clipping.rows() == []


def lay_out(folder: Path, sizes: list[int]) -> DataSet:
    """Shards of samples that are their own numbers, with a stratum that takes turns."""
    data = DataSet(inputs=folder / "inputs", annotations=folder / "annotations", samples=sum(sizes))
    for part in (data.inputs, data.annotations):
        part.mkdir(parents=True)
    first = 0
    for number, size in enumerate(sizes):
        numbers = np.arange(first, first + size)
        save_shard(data.inputs, number, {"x": numbers.astype(np.float32)[:, None]})
        save_shard(data.annotations, number, {"slice.turn": np.char.add("t", (numbers % 10).astype(np.str_))})
        first += size
    return data


BATCH = Dim(min=1, opt=64, max=64, buckets=None)


def taken(data: DataSet, most: int, batch: Dim = BATCH) -> list[Batch]:
    return list(batches(data, most, batch, ("turn", "absent")))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 60))
def test_samples_are_taken_from_all_of_a_set_each_at_most_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    total = sum(sizes)
    found = taken(lay_out(tmp_path_factory.mktemp("data"), sizes), most)
    numbers = np.concatenate([batch.feeds["x"][: batch.real, 0] for batch in found]).astype(int)
    parts = min(total, most)
    assert len(numbers) == parts
    ends = np.arange(parts + 1) * total // parts
    assert np.all((ends[:-1] <= numbers) & (numbers < ends[1:]))  # one from each part
    assert np.unique(numbers).size == parts
    labels = np.concatenate([batch.strata["turn"] for batch in found])
    assert labels.tolist() == [f"t{number % 10}" for number in numbers]
    assert all(set(batch.strata) == {"turn"} for batch in found)


def test_strata_that_take_turns_are_all_run(tmp_path: Path) -> None:
    found = taken(lay_out(tmp_path, [1000, 1560]), 256)  # every tenth, and ten values
    _, counts = np.unique(np.concatenate([batch.strata["turn"] for batch in found]), return_counts=True)
    assert counts.size == 10
    assert counts.min() >= 10  # of 25.6 on average


def test_the_same_samples_are_taken_each_time(tmp_path: Path) -> None:
    data = lay_out(tmp_path, [100])
    one, two = (np.concatenate([b.feeds["x"] for b in taken(data, 30)]) for _ in range(2))
    assert np.array_equal(one, two)


def test_batches_are_small_and_filled_up_to_the_least_size(tmp_path: Path) -> None:
    data = lay_out(tmp_path, [10])
    assert [batch.real for batch in taken(data, 10)] == [8, 2]
    filled = taken(data, 10, Dim(min=8, opt=8, max=16))
    assert [(batch.real, len(batch.feeds["x"])) for batch in filled] == [(8, 8), (2, 8)]
    assert [len(batch.strata["turn"]) for batch in filled] == [8, 2]
