"""50 pushes in a minute to a repository of four models, some sent twice, the watcher killed and started again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rows import Row
from safetensors.numpy import load_file, save_file

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # this is run as a script, and takes the model and the server from the tests

from flows.pushes.journal import Journal, State  # noqa: E402
from tasks.store.local import LocalStore  # noqa: E402
from tests.flows.projects import SPEC, prefect_server, write_project  # noqa: E402

if TYPE_CHECKING:
    from tests.flows.projects import Project

MODELS, PUSHES, MINUTE_S = 4, 50, 60.0
KILLED_AT, EVERY_S, LIMIT_S = 20, 2.0, 900.0
WATCH = """
import sys, time
from flows.pushes.watch_flow import watch
while True:
    watch([sys.argv[1]])
    time.sleep(float(sys.argv[2]))
"""


def pushes(scratch: Path) -> list[Row]:
    """How often the newest commit of each model was converted, by the store and by MLflow.

    Every push goes to the watcher, every third to `convert-commit` as well, and of these every second twice at once.

    Args:
        scratch: an empty folder.
    """
    (scratch / "prefect").mkdir()
    with prefect_server(scratch / "prefect") as url:
        project = write_project(scratch / "project", url)
        repository = make_repository(project)
        watcher = start_watcher(project, repository)
        senders: list[subprocess.Popen[str]] = []
        started = time.perf_counter()
        try:
            for number in range(PUSHES):
                old, new = push(repository, number)
                if number % 3 == 0:
                    sent = ["convert-commit", str(repository), "--commit", new, "--from", old]
                    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                    senders += [project.start(*sent, **quiet) for _ in range(1 + number % 2)]
                if number == KILLED_AT:
                    watcher.kill()
                    watcher = start_watcher(project, repository)
                time.sleep(max(0.0, started + (number + 1) * MINUTE_S / PUSHES - time.perf_counter()))
            for sender in senders:
                sender.wait(LIMIT_S)
            wait_for(project, repository)
        finally:
            watcher.kill()
    return judge(project, repository, time.perf_counter() - started)


def make_repository(project: Project) -> Path:
    """A repository whose models differ in their weights alone."""
    repository = project.root / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    for number in range(MODELS):
        folder = repository / f"model-{number}"
        project.model.rename(folder) if number == MODELS - 1 else copy(project.model, folder)
        spec = SPEC.replace("tiny-scorer", folder.name).replace("[fp32, int8]", "[fp32]")
        (folder / "model.yaml").write_text("\n".join(line for line in spec.splitlines() if "calibration:" not in line))
    commit(repository, "models")
    return repository


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def push(repository: Path, number: int) -> tuple[str, str]:
    """Change the weights of one model; returns the commits before and after."""
    old = git(repository, "rev-parse", "HEAD")
    path = repository / f"model-{number % MODELS}" / "weights.safetensors"
    weights = load_file(path)
    weights["layers.4.bias"] = weights["layers.4.bias"] + np.float32(0.01)
    save_file(weights, path)
    return old, commit(repository, f"push {number}")


def commit(repository: Path, message: str) -> str:
    git(repository, "add", "--all")
    git(repository, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", message)
    return git(repository, "rev-parse", "HEAD")


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def start_watcher(project: Project, repository: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WATCH, str(repository), str(EVERY_S)]
    with (project.root / "watcher.log").open("ab") as log:
        return subprocess.Popen(command, cwd=project.root, env=project.environment, stdout=log, stderr=log)


def newest(project: Project, repository: Path) -> dict[str, str]:
    """The version of each model at the head."""
    _, document, _ = project.run("plan", str(repository), "--from", "0" * 40, "--to", "HEAD")
    return {model["model"]: model["version"] for model in document["models"]}


def wait_for(project: Project, repository: Path) -> None:
    """Wait until the newest version of each model is converted."""
    wanted, deadline = newest(project, repository), time.monotonic() + LIMIT_S
    journal = Journal(LocalStore(project.home / "store"))
    while time.monotonic() < deadline:
        done = {m: {e.request.version for e in journal.entries(m) if e.state is State.DONE} for m in wanted}
        if all(version in done[model] for model, version in wanted.items()):
            return
        time.sleep(1)
    raise TimeoutError(f"not all of {wanted} were converted within {LIMIT_S:g} s")


def judge(project: Project, repository: Path, seconds: float) -> list[Row]:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - takes seconds

    wanted, journal = newest(project, repository), Journal(LocalStore(project.home / "store"))
    done = {model: [e for e in journal.entries(model) if e.state is State.DONE] for model in wanted}
    # A later commit with the same version is done as well, by the conversion that was there.
    stored = {
        model: sum(e.request.version == version and "converted before" not in e.reason for e in done[model])
        for model, version in wanted.items()
    }
    client = MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")
    logged: Counter[tuple[str, str]] = Counter()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], "tags.`enginegate.kind` = 'conversion'"):
            logged[run.data.tags["enginegate.model"], run.data.tags["enginegate.version"]] += 1
    of_newest = {model: logged[model, version] for model, version in wanted.items()}
    states = Counter(entry.state.value for model in wanted for entry in journal.entries(model))
    once = dict.fromkeys(wanted, 1)
    return [
        Row(
            f"{PUSHES} pushes in a minute to {MODELS} models: conversions of each newest commit, by store and MLflow",
            f"{sorted(stored.values())}, {sorted(of_newest.values())}",
            "1 each",
            stored == once and of_newest == once,
        ),
        Row(
            "… versions that MLflow has twice; how the requests ended; all done after",
            f"{sum(count > 1 for count in logged.values())}; {dict(states)}; {seconds:.0f} s",
            "none",
            max(logged.values()) == 1,
        ),
    ]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in pushes(Path(temporary)):
            print(row)
