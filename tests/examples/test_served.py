"""The examples, served by a real Triton as their docs say: asked, switched under load, killed, and sampled."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from tasks.declared import Dim
from tasks.release.smoke import read_smoke, try_on_smoke
from tasks.samples.npz import load_arrays, shard_paths
from tasks.serving.triton_api import TritonApi
from tasks.serving.triton_repository import TritonRepository
from tasks.serving.triton_server import TritonServer, find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.samples.npz import Arrays

pytestmark = pytest.mark.hardship(only=True)  # each converts a model first
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ["digit_reader", "essay_scorer", "intents", "oral_scorer", "detector", "line_reader"]
LIMIT_S = 600
REQUESTS, CLIENTS, SWITCHES, KILLS = 5000, 4, 6, 8
WATCH_S = 0.5
SAMPLING = {"rate": 1.0, "most_a_day": 2000, "every_hours": 1}


@dataclass(frozen=True)
class Converted:
    """An example of which two engines are registered."""

    name: str
    folder: Path
    home: Path
    engines: tuple[str, ...]

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command of ours, as people run it; its document."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.commands.cli", *arguments, "--json"],
            capture_output=True, text=True, env=self.environment, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """One that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            env=self.environment, start_new_session=True,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Of the commands."""
        return {**os.environ, "ENGINEGATE_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def promote(self, engine: str) -> None:
        """Point `staging`, which takes any engine, at this one."""
        self.run("promote", self.name, "--target", "cpu", "--to", "staging", "--engine", engine, "--yes")

    def pull(self, repository: Path, *more: str) -> tuple[str, ...]:
        """The arguments of a pull of what `staging` points at."""
        return ("pull", self.name, "--target", "cpu", "--channel", "staging", "--to", str(repository),
                "--layout", "triton", *more)  # fmt: skip


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A copy that has its traffic sampled, converted by the command."""
    root = tmp_path_factory.mktemp(request.param)
    folder, home = root / "examples" / request.param, root / "home"
    shutil.copytree(ROOT / "examples" / request.param, folder)
    spec = yaml.safe_load((folder / "model.yaml").read_text())
    used = (folder / spec["calibration"]["set"]).resolve()
    shutil.copytree(ROOT / "calibration_sets" / used.name, used)
    with (folder / "model.yaml").open("a") as file:
        file.write(f"serving: {{sampling: {json.dumps(SAMPLING)}}}\n")
    done = Converted(spec["name"], folder, home, ())
    document = done.run("convert", str(folder), "--target", "cpu")
    engines = tuple(sorted(one["engine_id"] for one in document["engines"] if one["verdict"] == "pass"))
    assert len(engines) == 2, document
    return Converted(spec["name"], folder, home, engines)


@pytest.fixture
def served(example: Converted, tmp_path: Path) -> Iterator[tuple[Path, TritonServer]]:
    """A repository with the second engine, and a server on it."""
    repository = tmp_path / "repository"
    repository.mkdir()
    example.promote(example.engines[1])
    with TritonServer(find_server(), repository) as server:
        example.run(*example.pull(repository, "--server", server.http))
        yield repository, server


def by_grpc(address: str, model: str) -> Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]:
    """Asks over gRPC as Triton's own client does."""
    grpc = pytest.importorskip("tritonclient.grpc")
    client = grpc.InferenceServerClient(address)

    def run(feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        inputs = []
        for name, array in feeds.items():
            datatype = {"int64": "INT64", "float32": "FP32"}[array.dtype.name]
            inputs.append(grpc.InferInput(name, list(array.shape), datatype))
            inputs[-1].set_data_from_numpy(array)
        answer = client.infer(model, inputs)
        return {one.name: answer.as_numpy(one.name) for one in answer.get_response().outputs}

    return run


def smoke_of(repository: Path, model: str) -> Any:
    return read_smoke(TritonRepository(repository, model).state / "current" / "smoke")


def as_engines_give(found: Arrays, like: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """What clients get, without the axis that Triton adds to one number a sample."""
    return {name: array.reshape(array.shape[: like[name].ndim]) for name, array in found.items()}


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_it_answers_by_each_protocol_as_the_engine_did_when_it_was_compared(
    protocol: str, example: Converted, served: tuple[Path, TritonServer]
) -> None:
    repository, server = served
    smoke, api = smoke_of(repository, example.name), TritonApi(server.http)
    ask = by_grpc(server.grpc, example.name) if protocol == "gRPC" else lambda feeds: api.infer(example.name, feeds)

    def run(feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return as_engines_give(ask(feeds), smoke.candidate[0])

    report = try_on_smoke(run, smoke, Dim(min=1, opt=4, max=4))
    assert report.ok, report.faults
    for inputs, reference in zip(smoke.inputs, smoke.reference, strict=True):
        found = as_engines_give(ask(inputs), reference)
        for name, right in reference.items():
            scale = max(float(np.abs(right).max()), 1e-6)
            assert float(np.abs(found[name] - right).mean()) <= 0.1 * scale, "near what PyTorch gave"


def test_versions_change_under_load_and_no_request_fails(example: Converted, served: tuple[Path, TritonServer]) -> None:
    repository, server = served
    inputs = smoke_of(repository, example.name).inputs[0]
    failed: list[str] = []
    asked = [0] * CLIENTS
    moves: set[int] = set()

    def client(number: int) -> None:
        api = TritonApi(server.http)
        while sum(asked) < REQUESTS or len(moves) <= SWITCHES:
            try:
                api.infer(example.name, inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is, a request failed
                failed.append(str(error))
            asked[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for number in range(SWITCHES + 1):
            example.promote(example.engines[number % 2])
            example.run(*example.pull(repository, "--server", server.http))
            route = TritonRepository(repository, example.name).read_route()
            assert route is not None
            moves.add(route.move)
    finally:
        moves.update(range(-SWITCHES, 0))  # ends the clients, also where a switch failed
        for thread in threads:
            thread.join()
    assert (failed, sum(asked) >= REQUESTS) == ([], True)


def test_whoever_is_killed_what_the_channel_points_at_is_served_after(example: Converted, tmp_path: Path) -> None:
    repository, chance = tmp_path / "repository", random.Random(1)  # noqa: S311 - moments, no secrets
    example.promote(example.engines[0])
    example.run(*example.pull(repository))
    for number in range(KILLS):
        with serving(example, repository) as server:
            watch = example.start(*example.pull(repository, "--server", server.http, "--watch", str(WATCH_S)))
            try:
                example.promote(example.engines[(number + 1) % 2])
                time.sleep(chance.uniform(0, 6))
                victim = chance.choice([watch.pid, server.pid])
                os.kill(victim, signal.SIGKILL)
                time.sleep(chance.uniform(0, 1))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(watch.pid, signal.SIGKILL)
                watch.communicate()
        with serving(example, repository) as server:  # started again on what lies there
            answer_smoke(example, repository, server)
            example.run(*example.pull(repository, "--server", server.http))
            route = TritonRepository(repository, example.name).read_route()
            assert route is not None
            assert route.engine_id == example.engines[(number + 1) % 2]
            answer_smoke(example, repository, server)


@contextlib.contextmanager
def serving(example: Converted, repository: Path) -> Iterator[TritonServer]:
    """A server that loads what the route leads to, and the router, as its start would be written."""
    route = TritonRepository(repository, example.name).read_route()
    assert route is not None, "at every moment there is one"
    models = [*dict.fromkeys(plan.model for plan in route.plans), example.name]
    with TritonServer(find_server(), repository, models) as server:
        yield server


def answer_smoke(example: Converted, repository: Path, server: TritonServer) -> None:
    smoke = smoke_of(repository, example.name)
    found = TritonApi(server.http).infer(example.name, smoke.inputs[0])
    assert all(np.isfinite(array).all() for array in found.values())


def test_what_was_asked_becomes_a_calibration_set(example: Converted, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    spec = yaml.safe_load((example.folder / "model.yaml").read_text())
    sets = (example.folder / spec["calibration"]["set"]).resolve()
    example.promote(example.engines[0])
    with TritonServer(find_server(), repository) as server:
        example.run(*example.pull(repository, "--server", server.http))
        api = TritonApi(server.http)
        for file in shard_paths(sets):
            arrays = load_arrays(file)
            for row in range(len(next(iter(arrays.values())))):
                api.infer(example.name, {name: arrays[name][row : row + 1] for name in spec["inputs"]})
    traffic = TritonRepository(repository, example.name).state / "traffic"
    drawn = tmp_path / "drawn"
    model = ("--model", str(example.folder))
    document = example.run("calibration", "draw", str(traffic), "--size", "64", "--out", str(drawn), *model)
    assert document["samples"] == 64
    example.run("calibration", "check", str(drawn), "--against", str(traffic), *model)
