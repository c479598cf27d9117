"""Conversions whose engines are made by workers of a Prefect server on loopback, with GPUs only in their belief.

Every run has one worker; with --hardship there are several, on every pool and deployment of infra/prefect.yaml. What a
runner refuses, and what a conversion makes of it, is also shown without any: `test_engine_flow`, `test_dispatch`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from safetensors.numpy import load_file, save_file

from flows.runners.gpu_lock import LOCKS
from tests.flows.projects import REPOSITORY, RUN_LIMIT_S, Project, prefect_server, write_project
from tests.hardship import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.end_to_end

IS_HARD = numbers().is_hard
DEPLOYMENTS = yaml.safe_load((REPOSITORY / "infra" / "prefect.yaml").read_text())["deployments"]
START_LIMIT_S = 60
GPU = {"driver": "1", "cuda": "13.0", "mig": None}
T4 = {"name": "NVIDIA T4", "compute_capability": "7.5", "uuid": f"GPU-fake-t4-{os.getpid()}", **GPU}
A10G = {"name": "NVIDIA A10G", "compute_capability": "8.6", "uuid": f"GPU-fake-a10g-{os.getpid()}", **GPU}
# So that the server knows within seconds that a worker is gone, and a worker takes its work at once.
SERVER = {"PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1"}
WORKER = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}


@dataclass(frozen=True)
class Worker:
    """A process worker, and the folder that holds what it believes of its GPU."""

    process: subprocess.Popen[bytes]
    belief: Path
    log: Path

    def kill(self) -> None:
        """Kill it with all that it started, as a host that loses its power does."""
        root = psutil.Process(self.process.pid)
        for process in (root, *root.children(recursive=True)):
            process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Site:
    """A Prefect server with its pools, a project, and the workers that were started."""

    project: Project
    workers: dict[str, Worker]

    def start(self, name: str, pool: str, gpu: dict[str, Any] | None = None) -> Worker:
        belief, log = self.project.root / name, self.project.root / f"{name}.log"
        belief.mkdir()
        path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        if gpu is not None:
            shutil.copy(Path(__file__).parent / "fake_runner" / "sitecustomize.py", belief)
            (belief / "gpu.json").write_text(json.dumps(gpu))
            path.insert(0, str(belief))
        command = ["-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=belief,
                env={**self.project.environment, **WORKER, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers[name] = Worker(process, belief, log)
        return self.workers[name]

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Settings of the conversion, which the workers do not see."""
        before = dict(self.project.environment)
        self.project.environment.update(values)
        yield
        self.project.environment.clear()
        self.project.environment.update(before)

    def new_version(self) -> None:
        """Change a weight, so that nothing is found done."""
        path = self.project.model / "weights.safetensors"
        weights = load_file(path)
        weights["layers.4.bias"][0] += np.float32(0.01)
        save_file(weights, path)

    def prefect(self, *arguments: str) -> None:
        environment = {**self.project.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def wait_for(what: Callable[[], object], limit_s: float = START_LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The run's server with two pools; with --hardship, one of our own with every pool and deployment."""
    if IS_HARD:
        home = tmp_path_factory.mktemp("prefect-server")
        with prefect_server(home, **SERVER) as url:
            make_pools(url, {entry["work_pool"]["name"] for entry in DEPLOYMENTS})
            yield url
    else:
        url = request.getfixturevalue("prefect_url")
        make_pools(url, {"gpu-a10g", "gpu-l4"})
        deploy_engines(url, {"gpu-a10g", "gpu-l4"})
        yield url


def make_pools(url: str, names: set[str]) -> None:
    """What `prefect work-pool create --type process POOL` does."""
    with SyncPrefectClient(url) as client:
        for name in names:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def deploy_engines(url: str, names: set[str]) -> None:
    """What `prefect deploy` makes of the entries of these names, without importing their flow."""
    with SyncPrefectClient(url) as client:
        flow = client.create_flow_from_name("make-engine")
        for entry in DEPLOYMENTS:
            if entry["name"] in names:
                client.create_deployment(
                    flow,
                    entry["name"],
                    entrypoint=entry["entrypoint"],
                    work_pool_name=entry["work_pool"]["name"],
                    pull_steps=[],
                    enforce_parameter_schema=False,
                )


@pytest.fixture(scope="module")
def site(
    url: str, tmp_path_factory: pytest.TempPathFactory, begin_with_store: Callable[[Path], None]
) -> Iterator[Site]:
    """A worker on each pool that makes engines here; the model's export and reference lie in the store."""
    project = write_for_runners(tmp_path_factory.mktemp("site"), url)
    begin_with_store(project.home)
    site = Site(project, {})
    if IS_HARD:
        site.prefect("deploy", "--all", "--prefect-file", "infra/prefect.yaml")
        site.start("first-t4", "gpu-t4", T4)
    site.start("first-a10g", "gpu-a10g", A10G)
    yield site
    for worker in site.workers.values():
        if worker.process.poll() is None:
            worker.kill()
    for lock in LOCKS.glob(f"enginegate-gpu-GPU-fake-*-{os.getpid()}.lock"):
        lock.unlink()


def write_for_runners(root: Path, url: str) -> Project:
    project = write_project(root, url)
    project.edit("model.yaml", "targets: [cpu]", "targets: [cpu, t4, a10g, l4, a100-mig-1g.5gb]")
    project.edit("model.yaml", "precisions: [fp32, int8]", "precisions: [fp32]")
    return project


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {engine["engine_id"].partition("@")[0]: engine["verdict"] for engine in document["engines"]}


def targets(*names: str) -> list[str]:
    return [word for name in names for word in ("--target", name)]


def outcomes_of(site: Site, document: dict[str, Any]) -> list[str]:
    """Engine ids of the finished MLflow runs of a conversion's version."""
    client = MlflowClient(f"sqlite:///{site.project.home / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`enginegate.version` = '{document['version']}'")
    ids = [run.data.tags.get("enginegate.engine_id") for run in runs if run.info.status == "FINISHED"]
    return sorted(engine_id for engine_id in ids if engine_id is not None)


@pytest.mark.hardship
def test_each_engine_is_made_by_its_target_s_worker_and_a_missing_one_keeps_no_other_back(site: Site) -> None:
    made = ("cpu", "t4", "a10g") if IS_HARD else ("cpu", "a10g")
    with site.settings(ENGINEGATE_RUNNER_WAIT_S="6"):
        code, document, text = site.project.convert(*targets(*made, "l4"))
    assert code == 4, text
    assert verdicts(document) == {
        **{f"tiny-scorer-{target}-fp32": "pass" for target in made},
        "tiny-scorer-l4-fp32": "inconclusive",
    }
    assert re.search(r"→ l4 fp32 +waiting: no worker on pool gpu-l4 since \d\d:\d\d\n", text)
    assert re.fullmatch(r"no worker on pool gpu-l4 since \d\d:\d\d", document["engines"][-1]["reason"])
    assert text.index("→ l4 fp32") < text.index("✓ build fp32"), "all are sent before the first is made here"
    passed = {engine["engine_id"] for engine in document["engines"] if engine["registered"]}
    assert site.project.registered() == passed
    assert len(passed) == len(made)
    assert outcomes_of(site, document) == sorted(engine["engine_id"] for engine in document["engines"])
    code, verified, _ = site.project.run("verify", *passed)
    assert code == 0
    assert all(faults == [] for faults in verified["engines"].values())
    manifests = {engine["cell"]["target"]: engine for engine in site.project.run("engines")[1]["engines"]}
    believed = {"t4": "NVIDIA T4", "a10g": "NVIDIA A10G"}
    assert all(manifests[target]["backend"]["device"] == believed[target] for target in made if target != "cpu")


@pytest.mark.hardship(only=True)
def test_a_worker_whose_gpu_is_another_target_s_refuses_the_work(site: Site) -> None:
    belief = site.workers["first-a10g"].belief / "gpu.json"
    belief.write_text(json.dumps(T4))
    code, document, _ = site.project.convert(*targets("a10g"))
    belief.write_text(json.dumps(A10G))
    assert code == 3
    assert document["engines"][0]["reason"] == (
        "this runner has NVIDIA T4 (target t4), and the engine is for a10g; start this worker on pool gpu-t4"
    )
    assert not document["engines"][0]["registered"]


@pytest.mark.hardship(only=True)
def test_a_worker_with_another_store_says_so(site: Site) -> None:
    other = site.project.root / "other-store"
    shutil.copytree(site.project.home / "store", other)
    site.project.edit("policy.yaml", "0.05", "0.04")  # so that the job is one that the worker's store has not seen
    with site.settings(ENGINEGATE_STORE=str(other)):
        code, document, text = site.project.convert(*targets("a10g"))
    assert code == 3, text
    assert "is ENGINEGATE_STORE here that of the conversion?" in document["engines"][0]["reason"]


def test_a_target_without_a_pool_is_refused_before_any_long_work(tmp_path: Path, prefect_url: str) -> None:
    project = write_for_runners(tmp_path / "project", prefect_url)
    code, document, text = project.convert(*targets("cpu", "a100-mig-1g.5gb"))
    assert code == 2
    assert "prefect work-pool create --type process gpu-a100-mig-1g.5gb" in document["error"]
    assert "✓ export" not in text


def test_without_a_prefect_api_a_target_that_is_not_this_host_is_refused(tmp_path: Path) -> None:
    project = write_for_runners(tmp_path / "project", "")
    del project.environment["PREFECT_API_URL"]
    code, document, text = project.convert(*targets("cpu", "t4"))
    assert code == 2, text
    assert "set PREFECT_API_URL to a server whose pool gpu-t4 has a worker" in document["error"]
    assert "--target cpu" in document["error"]
    assert "✓ export" not in text


@pytest.mark.hardship(only=True)
def test_a_worker_killed_in_the_middle_is_replaced_and_its_engine_is_registered_once(site: Site) -> None:
    site.new_version()
    first = site.workers["first-t4"]
    (first.belief / "building").unlink(missing_ok=True)  # where another test had this worker build before
    (first.belief / "hold").touch()
    with site.settings(ENGINEGATE_RUNNER_SILENCE_S="9"):
        process = site.project.start(
            *("convert", "model", "--json", *targets("t4")), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    wait_for((first.belief / "building").exists)
    second = site.start("second-t4", "gpu-t4", T4)
    wait_for(lambda: b"started" in second.log.read_bytes())
    first.kill()
    out, err = process.communicate(timeout=RUN_LIMIT_S)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert verdicts(document) == {"tiny-scorer-t4-fp32": "pass"}
    assert "no heartbeat from its runner for 9 s: sent to pool gpu-t4 again, 2 of 3" in err
    assert (second.belief / "building").exists()
    (engine_id,) = [name for name in site.project.registered() if name.endswith(document["version"])]
    assert site.project.run("verify", engine_id)[0] == 0
    assert outcomes_of(site, document) == [engine_id]


@pytest.mark.hardship(only=True)
def test_the_conversion_itself_runs_on_a_worker_and_sends_engines_to_others(site: Site) -> None:
    site.start("first-cpu", "cpu")
    before = site.project.registered()
    parameters = {"model_directory": str(site.project.model), "targets": ["a10g"]}
    site.prefect("deployment", "run", "convert/cpu", "--params", json.dumps(parameters), "--watch")
    new = site.project.registered() - before
    assert [name.partition("@")[0] for name in new] == ["tiny-scorer-a10g-fp32"]
