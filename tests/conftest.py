"""Seals every test off from the network, the real home folder and the settings of whoever runs it.

What tests write lies in memory where that is roomy: a file synced there costs 1 ms, and 19 ms on a disk.
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import socket
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from tasks.process.context import StageContext
from tasks.store.local import LocalStore
from tasks.tracking import connection
from tests import hardship
from tests.order import longest_first
from tests.shared_servers import shared_folder, shared_server
from tests.tasks.in_process import InProcess
from tests.tasks.tiny import write_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = ("ENGINEGATE_", "MLFLOW_", "PREFECT_", "AWS_", "XDG_", "GIT_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
NOBODY_LISTENS = "http://127.0.0.1:9"
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own below it
ROOM_BYTES = 4 << 30
# Hypothesis reads every module of the project for constants, once where it can keep them.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).resolve().parents[1] / ".hypothesis"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hardship", action="store_true", help="races and kill loops with their large numbers")


def pytest_configure(config: pytest.Config) -> None:
    hardship.choose(hard=config.getoption("hardship"))
    if is_roomy(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def is_roomy(folder: Path) -> bool:
    """Whether tests can write there, and run what they wrote."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    return shutil.disk_usage(folder).free >= ROOM_BYTES and not os.statvfs(folder).f_flag & os.ST_NOEXEC


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which went through a million objects that stay, again and again.

    It took half of the time here, and would take its part of every test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    left_out = [] if hardship.numbers().is_hard else [item for item in items if is_only_hardship(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = longest_first([item for item in items if item not in left_out], workers)


def is_only_hardship(item: pytest.Item) -> bool:
    """Whether a test is too long for every run, however small its numbers."""
    marker = item.get_closest_marker("hardship")
    return marker is not None and marker.kwargs.get("only", False)


class RealNetworkError(RuntimeError):
    """A test reached for the network."""


def is_loopback(host: object) -> bool:
    """Whether a host of a socket address stays on this machine."""
    text = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if text == "localhost":
        return True
    try:
        return ip_address(text).is_loopback or ip_address(text).is_unspecified
    except ValueError:
        return False


def guard(function: Callable[..., Any], host_of: Callable[[tuple[Any, ...]], object]) -> Callable[..., Any]:
    def guarded(*arguments: Any, **options: Any) -> Any:
        host = host_of(arguments)
        if not is_loopback(host):
            raise RealNetworkError(f"a test may not reach {host}; serve it on 127.0.0.1")
        return function(*arguments, **options)

    return guarded


def host_of_address(arguments: tuple[Any, ...]) -> object:
    address = arguments[-1]  # connect(self, address), connect_ex(self, address), sendto(self, data, [flags,] address)
    return address[0] if isinstance(address, tuple) else "localhost"  # else a Unix socket's path


@pytest.fixture(scope="session", autouse=True)
def _sealed_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network but loopback, an empty home folder, and none of the settings that were inherited.

    The current folder is an empty one too, for what fixtures of modules and sessions write.

    Child processes inherit the home folder and the settings, a proxy that nobody listens at, and that Ctrl-C ends them:
    a shell that starts the tests in the background has them ignore it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(SETTINGS):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)  # so that it is asked for again
        patch.chdir(tmp_path_factory.mktemp("folder"))
        for name in PROXIES:
            patch.setenv(name, NOBODY_LISTENS)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost,::1")
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guard(getattr(socket.socket, name), host_of_address))
        for name in ("getaddrinfo", "gethostbyname"):
            patch.setattr(socket, name, guard(getattr(socket, name), lambda arguments: arguments[0]))
        yield


@pytest.fixture(autouse=True)
def _restored_environment(tmp_path: Path) -> Iterator[None]:
    """Each test starts in an empty folder, and what it sets in the environment ends with it."""
    folder, environment = os.getcwd(), dict(os.environ)  # noqa: PTH109 - as it was, links and all
    os.chdir(tmp_path)
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def prefect_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Prefect server of this run; other tests have their flows and runs there too."""
    return shared_server("prefect", request, tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def _mlflow_stores_are_copied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """MLflow's migrations take a second for a new store: here they run once, and its file is copied.

    A child process makes its own as ever, and so does what undoes this: the real function is `__wrapped__`.
    """
    make = connection._create_sqlite_store  # noqa: SLF001 - what takes so long
    template = shared_folder(request, tmp_path_factory) / "empty-mlflow.db"

    @functools.wraps(make)
    def copy(path: Path) -> None:
        if not template.exists():
            make(template)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                shutil.copy(template, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_create_sqlite_store", copy)
        yield


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty artifact store."""
    return LocalStore(tmp_path / "store")


@pytest.fixture
def context(store: LocalStore) -> StageContext:
    """A workbench on the empty store."""
    return StageContext(store, time_limit_s=120, benchmark_s=0.05)


@pytest.fixture
def here(store: LocalStore) -> InProcess:
    """A workbench on the empty store, whose stages run what they can in this process."""
    return InProcess(store, benchmark_s=0.05)


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny scorer's model directory; keywords replace keys of its model.yaml, None removes one."""

    def write(**changes: Any) -> Path:
        return write_model_folder(tmp_path / "model", **changes)

    return write
