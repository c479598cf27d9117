"""Starts a real Triton on this machine, for a laptop and for tests, and leaves nothing of it behind.

The server of `make triton` runs its models in a Python of its own. What that needs of the environment was found by
trying: the folder of its `libpython` alone in LD_LIBRARY_PATH (with the libraries of the server's own wheel on it,
outputs come back empty), and its `bin` first on PATH. The interpreters of models read no PYTHONPATH: `make triton` puts
this project, whose runners they import, on that Python's path by a .pth file.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tasks.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

PROJECT = Path(__file__).resolve().parents[2]
BUILT = PROJECT / ".triton"
SETTING = "ENGINEGATE_TRITON"
LOOPBACK = "127.0.0.1"
LOG_FILE = "triton.log"
# A model of TensorRT plans takes tens of seconds to load, several of them as often.
START_LIMIT_S = 120.0
# How long requests in flight are waited for. Connections that are kept alive count as such, so it is always used up
# where a client stays.
EXIT_LIMIT_S = 3
_KILL_AFTER_S = 10.0
_LOOK_EVERY_S = 0.05
_SHOWN_LINES = 8
_MOST_STARTS = 3
_ERROR = re.compile(r"E[0-9]{4} |error: ")
_NO_GPU = ("CudaDriverHelper has not been initialized",)  # said at each start without a GPU, where all is well
_HIGHEST_PORT = 65535
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it: the Python backend's tensors lie there
_DIES_WITH_THIS = ("setpriv", "--pdeathsig", "TERM", "--")  # of util-linux, which every Linux has


@dataclass(frozen=True)
class ServerInstall:
    """A Triton server: `root` has `bin/tritonserver` and `backends/`.

    `python` is the environment of its models, `root/python`; None where they run in the Python that the server finds
    itself, as in NVIDIA's image.
    """

    root: Path
    python: Path | None

    @property
    def binary(self) -> Path:
        """The server itself; links are followed, since it finds its libraries beside it."""
        return (self.root / "bin" / "tritonserver").resolve()

    @property
    def backends(self) -> Path:
        """The folder of its backends, one a folder; links are followed as for the server."""
        return (self.root / "backends").resolve()

    def has_backend(self, name: str) -> bool:
        """Whether it has a backend: `python`, `tensorrt`."""
        return (self.backends / name / f"libtriton_{name}.so").is_file()

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """What the server is started with, made of the environment `outside`."""
        if self.python is None:
            return dict(outside)
        programs = self.python / "bin"
        question = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
        told = subprocess.run(
            [str(programs / "python"), "-I", "-c", question], capture_output=True, text=True, check=True
        )
        return {
            **outside,
            "PATH": f"{programs}{os.pathsep}{outside.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": told.stdout.strip(),
        }


def find_server(named: Path | None = None) -> ServerInstall:
    """The server in the folder `named` (what $ENGINEGATE_TRITON says), or else the one that `make triton` made.

    Raises:
        InputError: there is none.
    """
    root = BUILT if named is None else named.expanduser().absolute()
    missing = [path for path in ("bin/tritonserver", "backends") if not (root / path).exists()]
    if missing:
        remedy = (
            f"run `make triton` in {PROJECT}, or name a folder that has one in {SETTING}, as /opt/tritonserver"
            if named is None
            else f"{SETTING} names a folder with bin/tritonserver and backends/, as /opt/tritonserver; or unset it"
        )
        raise InputError(f"{root}: has no {' and no '.join(missing)}, so Triton cannot be started; {remedy}")
    python = root / "python"
    return ServerInstall(root, python if (python / "bin" / "python").exists() else None)


@dataclass(frozen=True)
class Ports:
    """Ports of a server; None stands for one that is free."""

    http: int | None = None
    grpc: int | None = None
    metrics: int | None = None

    @property
    def named(self) -> dict[str, int]:
        """Those that are not None, by the option that names them."""
        found = {"--http-port": self.http, "--grpc-port": self.grpc, "--metrics-port": self.metrics}
        return {option: port for option, port in found.items() if port is not None}


class TritonServer:
    """A server on a model repository, as a context manager: ready inside, and gone after.

    It has no models but those it is told to load (`--model-control-mode=explicit`), listens on `host` alone, and writes
    its log anew at each start, to `log` or `repository/.enginegate/triton.log`. It is ended by SIGTERM with this
    process, and with the thread that started it. `options` go to the server as they are.

    Raises:
        InputError: a port that was asked for is taken.
        StageError: the server ended before it was ready, or was not ready in `start_limit_s` seconds.
    """

    def __init__(
        self,
        install: ServerInstall,
        repository: Path,
        models: Sequence[str] = (),
        *,
        ports: Ports | None = None,
        host: str = LOOPBACK,
        log: Path | None = None,
        options: Sequence[str] = (),
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        self.repository = repository.absolute()
        self.log = (log or self.repository / ".enginegate" / LOG_FILE).absolute()
        self._install, self._models, self._options = install, tuple(models), tuple(options)
        self._asked, self._host, self._start_limit_s = ports or Ports(), host, start_limit_s
        self._ports = self._asked
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def http(self) -> str:
        """Where it answers HTTP, as `http://127.0.0.1:8000`; as `grpc` and `metrics`, known once it is ready."""
        return f"http://{self._host}:{self._ports.http}"

    @property
    def grpc(self) -> str:
        """Where it answers gRPC, as `127.0.0.1:8001`."""
        return f"{self._host}:{self._ports.grpc}"

    @property
    def metrics(self) -> str:
        """Where Prometheus finds its metrics, as `http://127.0.0.1:8002/metrics`."""
        return f"http://{self._host}:{self._ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """The server's process, while there is one."""
        assert self._process is not None  # noqa: S101 - it was started
        return self._process.pid

    def __enter__(self) -> Self:
        _refuse_taken(self._host, self._asked)
        for start in range(1, _MOST_STARTS + 1):
            self._ports = choose_ports(self._host, self._asked)
            self._start()
            try:
                self._wait_until_ready()
            except BaseException:
                self.stop()
                # A port that was free can be another's by the time the server asks for it.
                if start < _MOST_STARTS and self._asked != self._ports and "already in use" in self.last_lines():
                    continue
                raise
            return self
        raise AssertionError  # pragma: no cover - the last start returns or raises

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def poll(self) -> int | None:
        """The server's exit code, negative for a signal; None while it lives."""
        return None if self._process is None else self._process.poll()

    def wait(self) -> int:
        """Wait until the server ends by itself; return its exit code."""
        assert self._process is not None  # noqa: S101 - it was started
        return self._process.wait()

    def stop(self) -> None:
        """End the server and all that it started; requests in flight have `EXIT_LIMIT_S`. Nothing where it ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_LIMIT_S + _KILL_AFTER_S)
        finally:  # also where a second Ctrl-C wants no waiting
            self._sweep(process)

    def _sweep(self, process: subprocess.Popen[bytes]) -> None:
        # The interpreters of its models are in its group; where it was killed, they look for it once in a while only.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for region in _SHARED_MEMORY.glob(f"{self._region}*"):
            region.unlink(missing_ok=True)

    def last_lines(self) -> str:
        """The end of the log: its errors where it has some, else what it says last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if _ERROR.match(line) and not any(known in line for known in _NO_GPU)]
        return "\n".join((errors or lines)[-_SHOWN_LINES:])

    @property
    def _region(self) -> str:
        """What the names of its regions of shared memory begin with: those of a server that is killed stay else."""
        return f"enginegate-triton-{os.getpid()}-{self._ports.http}-"

    def _command(self) -> list[str]:
        addresses = [f"--{name}-address={self._host}" for name in ("http", "grpc", "metrics")]
        return [
            *_DIES_WITH_THIS,
            str(self._install.binary),
            f"--model-repository={self.repository}",
            f"--backend-directory={self._install.backends}",
            f"--backend-config=python,shm-region-prefix-name={self._region}",
            "--model-control-mode=explicit",
            f"--exit-timeout-secs={EXIT_LIMIT_S}",
            *(f"--load-model={model}" for model in self._models),
            *addresses,
            *(f"{option}={port}" for option, port in self._ports.named.items()),
            *self._options,
        ]

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.repository,
                env=self._install.environment(os.environ),
                start_new_session=True,  # a Ctrl-C in the terminal is this process's, which ends it in order
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_limit_s
        while True:
            code = self.poll()
            if code is not None:
                self._fail(f"ended with exit code {code} before it was ready")
            if self._is_ready():
                return
            if time.monotonic() > deadline:
                self._fail(f"was not ready in {self._start_limit_s:g} seconds")
            time.sleep(_LOOK_EVERY_S)

    def _fail(self, what: str) -> NoReturn:
        raise StageError(f"Triton {what}; correct what the end of its log, {self.log}, says:\n{self.last_lines()}")

    def _is_ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is not for this machine
        try:
            with closing(opener.open(f"{self.http}/v2/health/ready", timeout=1)) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004 - HTTP's OK
        except OSError:  # nothing listens yet, or it says that a model still loads
            return False


def choose_ports(host: str, asked: Ports) -> Ports:
    """The ports that were asked for, and for the others such as are free now and no two alike."""
    with ExitStack() as held:

        def free() -> int:
            listener = held.enter_context(closing(socket.socket()))
            listener.bind((host, 0))
            return int(listener.getsockname()[1])

        return Ports(*(free() if port is None else port for port in (asked.http, asked.grpc, asked.metrics)))


def _refuse_taken(host: str, asked: Ports) -> None:
    """Raise InputError for a port that was asked for and cannot be had."""
    numbers = list(asked.named.values())
    for option, port in asked.named.items():
        if not 0 < port <= _HIGHEST_PORT:
            raise InputError(f"{option}: {port} is no port; give a number from 1 to {_HIGHEST_PORT}")
        if numbers.count(port) > 1:
            raise InputError(f"{option}: port {port} is asked for twice; give each a port of its own")
        with closing(socket.socket()) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                raise InputError(
                    f"{option}: port {port} of {host} cannot be had: {error.strerror}; give another one, or leave it"
                    " out for one that is free"
                ) from None
