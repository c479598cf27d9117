"""The examples that `examples/making.py` trains: their generators, their weights, their data and their export."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from examples import making
from examples.alarm_sounds import model as sound_model
from examples.detector import boxes
from examples.line_reader import train as line_training
from examples.whisper_encoder import model as whisper
from tasks.calibration.sets import read_set
from tasks.graphs.onnx_check import open_session
from tasks.model.model_directory import read_model_directory
from tasks.stages.export import export_onnx
from tasks.stages.ingest import ingest
from tests.tasks.noise_floor import FALL, LIBRARY, RISE, write_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.tasks.in_process import InProcess

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("alarm_sounds", "detector", "image_classifier", "intents", "line_reader", "whisper_encoder")


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """On a busy machine two threads that wait for each other are several times slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=NAMES)
def example(request: pytest.FixtureRequest) -> making.Example:
    found = importlib.import_module(f"examples.{request.param}.train").EXAMPLE
    assert isinstance(found, making.Example)
    return found


def shipped_shards(folder: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    shards = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            shards.append(dict(archive))
    return shards


def test_the_same_seed_draws_the_same_samples_and_another_one_others(example: making.Example) -> None:
    first, again, other = (example.draw(seed, 12) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        assert one.keys() == same.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], same[name])
    assert len(making.unique([*first, *other], example.inputs)) == 24


def test_what_is_drawn_is_as_shipped_and_no_sample_is_in_two_sets(example: making.Example) -> None:
    validation = shipped_shards(example.folder / "validation")
    calibration = shipped_shards(ROOT / "calibration_sets" / example.calibration)
    rows = [
        b"".join(repr(shard[name][row].shape).encode() + shard[name][row].tobytes() for name in example.inputs)
        for shard in (*validation, *calibration)
        for row in range(len(shard[example.inputs[0]]))
    ]
    assert len(rows) == len(set(rows)) == sum(example.sizes[:2])
    (drawn,) = making.shipped(making.stack(example.draw(3, 1), example.inputs), with_label=True).values()
    with np.load(io.BytesIO(drawn)) as archive:
        assert {name: (array.dtype.kind, array.ndim) for name, array in archive.items()} == {
            name: (array.dtype.kind, array.ndim) for name, array in validation[0].items()
        }


def test_the_shipped_weights_are_as_good_as_the_example_says(example: making.Example) -> None:
    network = example.build()
    network.load_state_dict(load_file(example.folder / "weights.safetensors"), strict=True)
    assert (example.folder / "weights.safetensors").stat().st_size < 2_100_000
    parts = making.split(example, example.seed, example.sizes[:2])  # a longer draw begins with these
    assert example.quality(network.eval(), list(making.stack(parts[0], example.inputs).values())) >= example.minimum


@pytest.mark.hardship(only=True)
def test_the_shipped_module_exports_to_onnx_within_the_check_s_limits(here: InProcess, example: making.Example) -> None:
    directory = read_model_directory(example.folder)
    validation = ingest(here, directory.spec, directory.validation, "validation.data").result
    assert validation.samples == example.sizes[0]
    assert export_onnx(here, directory, validation).result.onnx.size_bytes > 0


@pytest.mark.hardship(only=True)
@pytest.mark.parametrize("name", ["alarm_sounds", "image_classifier"])
def test_the_command_converts_it_as_it_is_and_both_precisions_pass(tmp_path: Path, name: str) -> None:
    environment = {**os.environ, "ENGINEGATE_HOME": str(tmp_path / "home")}
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "flows.commands.cli", "convert", f"examples/{name}", "--target", "cpu", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    engines = json.loads(done.stdout)["engines"]
    made = [(engine["engine_id"].partition("@")[0], engine["verdict"]) for engine in engines]
    prefix = f"{name.replace('_', '-')}-cpu"
    assert made == [(f"{prefix}-fp16", "pass"), (f"{prefix}-int8", "pass")]


def test_training_that_reaches_too_little_writes_nothing(
    tmp_path: Path, example: making.Example, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_small(example)
    out = ("--out", str(tmp_path / "model"), "--calibration-out", str(tmp_path / "sets"), "--steps", "1")
    assert making.main(small, [*out, "--minimum", "1.1", "--threads", "1"]) == 3
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_training_writes_weights_validation_data_and_a_calibration_set(tmp_path: Path, example: making.Example) -> None:
    small = make_small(example)
    (tmp_path / "model" / "validation").mkdir(parents=True)
    (tmp_path / "model" / "validation" / "stale.npz").touch()
    out = ("--out", str(tmp_path / "model"), "--calibration-out", str(tmp_path / "sets"), "--steps", "1")
    assert making.main(small, [*out, "--minimum", "-1", "--threads", "1"]) == 0
    assert not (tmp_path / "model" / "validation" / "stale.npz").exists()
    found = read_set(tmp_path / "sets" / example.calibration, tmp_path / "downloads")
    assert found.manifest.samples == 40
    assert not any("label" in shard or "_word" in shard for shard in shipped_shards(tmp_path / "sets"))
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    assert weights.keys() == load_file(example.folder / "weights.safetensors").keys()


def make_small(example: making.Example) -> making.Example:
    """The example on few samples."""
    return dataclasses.replace(example, sizes=(24, 40, 64), batch=8)


def test_the_shipped_library_computes_the_noise_floor_as_the_module_does_and_as_its_source_compiles(
    tmp_path: Path,
) -> None:
    energies = torch.randn(3, sound_model.BANDS, 40, generator=torch.Generator().manual_seed(5))
    wanted = sound_model.noise_floor(energies, RISE, FALL).numpy()
    graph = write_floor(tmp_path, extents="batch,24,frames")
    np.testing.assert_allclose(computed(graph, energies), wanted, rtol=0, atol=1e-6)
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    library = tmp_path / "plugins" / LIBRARY.name
    library.unlink()
    source = LIBRARY.with_name("noise_floor.c")
    options = ["-std=c11", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Werror", "-s"]
    subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True)
    np.testing.assert_array_equal(computed(graph, energies), wanted)


def computed(graph: Path, energies: torch.Tensor) -> np.ndarray[Any, Any]:
    """What ONNX Runtime makes of a graph of the noise floor, with the library that lies beside it."""
    found: np.ndarray[Any, Any] = open_session(graph).run(None, {"features": energies.numpy()})[0]
    return found


def test_the_dynamic_whisper_encoder_equals_the_library_s_at_its_longest() -> None:
    torch.manual_seed(3)
    network = whisper.build().eval()
    features = torch.randn(2, whisper.MELS, whisper.LONGEST)
    with torch.inference_mode():
        torch.testing.assert_close(
            network(features)["last_hidden_state"], network.encoder(features).last_hidden_state, rtol=0, atol=1e-6
        )


def test_suppression_keeps_the_best_of_duplicates_and_boxes_of_other_classes() -> None:
    rows = np.array(
        [
            [0, 0, 10, 10, 0.7, 1],
            [1, 0, 10, 10, 0.9, 1],
            [0, 0, 10, 10, 0.8, 2],
            [40, 40, 50, 50, 0.6, 1],
            [42, 40, 60, 60, 0.55, 1],
            [0, 30, 9, 40, 0.49, 1],
        ],
        dtype=np.float32,
    )
    assert boxes.suppress(rows)[:, 4].tolist() == pytest.approx([0.9, 0.8, 0.6, 0.55])
    assert boxes.suppress(rows[:0]).shape == (0, 6)


def test_greedy_text_joins_repeats_that_no_blank_parts() -> None:
    assert line_training.greedy_text([0, 3, 3, 0, 3, 5, 5, 0, 0, 2]) == [3, 3, 5, 2]
