"""A small real model in a home of its own, and a Prefect server on loopback, for tests of whole conversions."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from click.testing import CliRunner
from safetensors.numpy import save_file

from flows.commands.cli import main
from tests.sets import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_LIMIT_S = 120
RUN_LIMIT_S = 300
DRAIN_LIMIT_S = 10
# Half of what an idle server does, and that no test waits for.
IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "REPOSSESSOR")

SOURCE = """
import torch


class Scorer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
        )

    def forward(self, features):
        print("user code prints")
        return torch.sigmoid(self.layers(features))


def build():
    return Scorer()
"""

SPEC = """
name: tiny-scorer
source: model.py:build
weights: weights.safetensors
inputs:
  features: {dtype: float32, shape: [batch, 16]}
dims:
  batch: {min: 1, opt: 8, max: 32}
outputs:
  score: {kind: score, range: [0, 1]}
targets: [cpu]
precisions: [fp32, int8]
calibration: {set: ../calibration, method: minmax}
validation: {data: validation.npz, policy: policy.yaml}
"""

POLICY = """
rules:
  - {output: score, metric: mae, max: 0.05}
  - {output: score, metric: spearman, min: 0.9}
"""


@dataclass(frozen=True)
class Project:
    """A model directory with its calibration set, and a home of its own."""

    root: Path
    environment: dict[str, str]

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", *arguments],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, JSON document and people's text; in this process, which has imported Prefect and MLflow once."""
        result = CliRunner().invoke(main, [*arguments, "--json"], env=self.environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout), result.stderr

    def convert(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """As `run`, with blank figures."""
        with blank_figures():
            return self.run("convert", str(self.model), *arguments)

    def forget(self, *kinds: str) -> None:
        """Let the store forget what these kinds of stages made."""
        for kind in kinds:
            shutil.rmtree(self.home / "store" / "records" / kind)

    def edit(self, name: str, before: str, after: str) -> None:
        path = self.model / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def registered(self) -> set[str]:
        return {engine["engine_id"] for engine in self.run("engines")[1]["engines"]}


@contextmanager
def blank_figures() -> Iterator[None]:
    """Draw no figures for MLflow: they take most of a conversion or a check whose stages are done."""
    with patch("matplotlib.figure.Figure.savefig", lambda _figure, path, **_options: Path(path).touch()):
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def prefect_server(home: Path, **settings: str) -> Iterator[str]:
    """A Prefect server with these settings and its database in `home`; its address."""
    port = free_port()
    idle = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES}
    ours = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **idle, **settings}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_api", str(port), str(os.getpid()), str(home / "lock")],
            cwd=REPOSITORY, env=os.environ | ours, stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    deadline = time.monotonic() + SERVER_LIMIT_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()  # noqa: S310 - loopback
            break
        except OSError:
            time.sleep(0.2)
    try:
        yield url
    finally:
        _drain_prefect()
        process.kill()
        process.wait()


def _drain_prefect() -> None:
    """Let Prefect's threads send what they hold while the server answers: later, they keep this process from ending."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker  # noqa: PLC0415 - where no flow ran, it need not be imported
        from prefect.logging.handlers import APILogWorker  # noqa: PLC0415 - as above

        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=DRAIN_LIMIT_S, at_exit=False)


def write_project(root: Path, prefect_url: str) -> Project:
    model, calibration = root / "model", root / "calibration"
    model.mkdir(parents=True)
    calibration.mkdir()
    (model / "model.py").write_text(SOURCE)
    (model / "model.yaml").write_text(SPEC)
    (model / "policy.yaml").write_text(POLICY)
    random = np.random.default_rng(7)
    weights = {}
    for layer, shape in {"0": (32, 16), "2": (32, 32), "4": (2, 32)}.items():
        weights[f"layers.{layer}.weight"] = (random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        weights[f"layers.{layer}.bias"] = (0.1 * random.standard_normal(shape[0])).astype(np.float32)
    save_file(weights, model / "weights.safetensors")
    write_data(model / "validation.npz", seed=1)
    write_calibration(root, seed=2)
    return project_at(root, prefect_url)


def project_at(root: Path, prefect_url: str) -> Project:
    """The project that lies there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ENGINEGATE_"))}
    environment = inherited | {
        "ENGINEGATE_HOME": str(root / "home"),
        "ENGINEGATE_BENCHMARK_S": "0.05",
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(root / "prefect"),
        "PYTHONPATH": str(REPOSITORY),
    }
    return Project(root, environment)


def write_calibration(root: Path, seed: int) -> None:
    write_data(root / "calibration" / "set.npz", seed=seed)
    describe(root / "calibration", {"features": {"dtype": "float32", "shape": ["batch", 16]}})


def write_data(path: Path, seed: int, samples: int = 300) -> None:
    random = np.random.default_rng(seed)
    np.savez(
        path,
        features=random.standard_normal((samples, 16)).astype(np.float32),
        label=random.random(samples).astype(np.float32),
        **{"slice.level": random.integers(1, 7, samples)},
    )
