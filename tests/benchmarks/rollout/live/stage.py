"""Everything that a rollout needs, on this machine: S3, Triton with the router, a watch and a judge, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tasks.errors import EnginegateError
from tasks.objects.location import open_objects
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.rollouts import RolloutAddress
from tasks.registry.signing import Signing
from tasks.serving.triton_api import TritonApi
from tasks.serving.triton_repository import TritonRepository
from tasks.serving.triton_server import Ports, TritonServer, find_server
from tests.s3_servers import BUCKET, aws_settings, make_bucket, serve_moto
from tests.tasks.registry.keys import write_key
from tests.tasks.serving_host import PRODUCTION, Shop
from tests.tasks.tiny import cell, make_features, put_shards, put_smoke, write_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.registry.rollouts import RolloutHistory
    from tests.benchmarks.rollout.live.engines import LiveEngine

ROOT = Path(__file__).resolve().parents[4]
CANARY = ChannelAddress("tiny", "cpu", ChannelName.CANARY)
ROLLOUT = RolloutAddress("tiny", "cpu")
MODEL = ("tiny", "--target", "cpu")
LIMIT_S = 120
# Minutes instead of days. A hundred errors in 10,000 requests are seen, and so is a tenth of the users.
PLAN = """\
steps: [shadow, 5, 25, 100]
soak: 10s
mirror: 0.5
noise: 0.05
key: user
slices: [language]
rules: [{output: score, metric: mae, max: 0.02}]
latency: {p50: 4, p99: null}   # two cores that all of this shares
errors: 0.004
"""


@dataclass
class Stage:
    """The processes and the registry; `versions` are the engines that were published, by version."""

    root: Path
    environment: dict[str, str]
    shop: Shop
    server: TritonServer
    versions: dict[str, LiveEngine] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def repository(self) -> TritonRepository:
        """What Triton serves."""
        return TritonRepository(self.root / "repository", "tiny")

    @property
    def port(self) -> int:
        """Where clients ask."""
        return int(self.server.http.rpartition(":")[2])

    def publish(self, engine: LiveEngine) -> str:
        """Register an engine that no gate has seen, as a build that lies would; its version."""
        version = f"{len(self.versions) + 1:012x}"
        if engine.body is None:
            self.shop.publish(version)
        else:
            plan = write_onnx(self.root / "onnx" / version, engine.body).read_bytes()
            smoke = put_smoke(self.shop.store)
            answers = put_shards(self.shop.store, [{"score": engine.expected(make_features(8)[:4]).astype(np.float32)}])
            self.shop.publish(version, plan=plan, smoke=smoke.model_copy(update={"candidate": answers}))
        self.versions[version] = engine
        return version

    def promote(self, version: str, address: ChannelAddress) -> None:
        """Point a channel at an engine."""
        self.shop.promote(cell(version=version), address=address)

    def history(self) -> RolloutHistory:
        """The signed steps."""
        return self.shop.registry.rollouts.read(ROLLOUT)

    def production(self) -> str:
        """The version that production points at."""
        current = self.shop.registry.channels.read(PRODUCTION).current
        assert current is not None
        return current.engine_id.rpartition("@")[2]

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """A command of ours, as people run it: its exit code and its document."""
        done = subprocess.run(
            [*_command(*arguments), "--json"], env=self.environment, cwd=self.root, capture_output=True, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}") from None

    def start(self, name: str, *arguments: str) -> None:
        """Start a command that goes on, in place of the one of that name."""
        self.kill(name)
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                _command(*arguments), env=self.environment, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def start_watch(self) -> None:
        """The host that follows channel and rollout."""
        to = str(self.repository.root)
        self.start("watch", "pull", *MODEL, "--to", to, "--layout", "triton", "--server", self.server.http, "--watch",
                   "--every", "1", "--host-name", "host-1")  # fmt: skip

    def start_judge(self) -> None:
        """Who judges, and goes on until the rollout has ended."""
        self.start("judge", "rollout", "run", *MODEL, "--every", "2")

    def kill(self, name: str) -> None:
        """Kill a process with all that it started."""
        process = self.processes.pop(name, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill_router(self) -> None:
        """Kill the interpreters of the router and of the engines' models, then load these again.

        Triton 2.51 starts none again by itself, so this is what whoever watches a model's failures has to do.
        """
        for child in psutil.Process(self.server.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "triton_python_backend_stub" in " ".join(child.cmdline()):
                    child.kill()
        route, api = self.repository.read_route(), TritonApi(self.server.http)
        for model in [] if route is None else [*sorted(route.models), "tiny"]:
            with contextlib.suppress(EnginegateError):  # the watch may be taking it out
                api.unload(model)
                api.load(model)

    def kill_server(self) -> None:
        """Kill the server, and start it again at its port with what its route leads to."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server.stop()
        route = self.repository.read_route()
        models = [] if route is None else [*dict.fromkeys(plan.model for plan in route.plans), "tiny"]
        self.server = TritonServer(find_server(), self.repository.root, models, ports=Ports(http=self.port))
        self.server.__enter__()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.commands.cli", *arguments]


@contextlib.contextmanager
def staged(root: Path, production: LiveEngine) -> Iterator[Stage]:
    """A stage on which `production` is served, and nothing is rolled out."""
    (root / "repository").mkdir(parents=True)
    (root / "onnx").mkdir()
    write_key(root / "keys")
    with serve_moto() as endpoint:
        make_bucket(endpoint)
        settings = {
            "ENGINEGATE_HOME": str(root / "home"), "ENGINEGATE_REGISTRY": f"s3://{BUCKET}/registry",
            "ENGINEGATE_SIGNING_KEY": str(root / "keys" / "ann.key"), "ENGINEGATE_ACTOR": "ann",
            "ENGINEGATE_TRUST": str(root / "keys" / "ann.pem"), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        settings |= aws_settings(endpoint)
        os.environ |= aws_settings(endpoint)
        signing = Signing.from_files(root / "keys" / "ann.key", root / "keys" / "ann.pem")
        shop = Shop(root, open_objects(f"s3://{BUCKET}/registry"), signing)
        (root / "rollout.yaml").write_text(PLAN)
        server = TritonServer(find_server(), root / "repository").__enter__()
        stage = Stage(root, {**os.environ, **settings}, shop, server)
        try:
            stage.promote(stage.publish(production), PRODUCTION)
            code, document = stage.run("pull", *MODEL, "--to", str(root / "repository"), "--layout", "triton",
                                       "--server", server.http)  # fmt: skip
            assert code == 0, document
            stage.start_watch()
            yield stage
        finally:
            for name in tuple(stage.processes):
                stage.kill(name)
            stage.server.stop()
