"""A Prefect API for a host that has none: a temporary server on loopback, as Prefect starts one itself.

It differs from Prefect's own in two things: MLflow opens while it starts, and it dies with the command, even by
kill -9. Where PREFECT_API_URL or a Prefect profile names a server, that one is used and none is started.

Run as a module, this is the server process: `python -m flows.prefect_api PORT PARENT LOCK`.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from tasks.errors import EnginegateError
from tasks.process.kernel import die_with
from tasks.tracking.connection import without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "127.0.0.1"
TOLD_EVERY_S = 30.0
STOP_LIMIT_S = 5.0
POLL_S = 0.05
ANSWER_LIMIT_S = 5.0
LOG_TAIL_LINES = 8
_temporary: set[str] = set()


def set_prefect_defaults() -> None:
    """Set Prefect's defaults before its first import: no telemetry, no banner. What the user set stands."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # The console is ours; Prefect's page still gets every record.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def require_configured_api() -> bool:
    """Whether PREFECT_API_URL or a Prefect profile names a server, which workers can reach too, and it answers.

    Raises:
        EnginegateError: one is named and does not answer.
    """
    set_prefect_defaults()

    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - reads its settings when imported
    from prefect.settings import get_current_settings  # noqa: PLC0415 - as above

    refresh_global_settings_context()  # what it read when it was imported may be another command's
    url = get_current_settings().api.url
    if url is None or url in _temporary:
        return False
    if not _answers(url):
        raise EnginegateError(
            f"Prefect at {without_credentials(url)} does not answer; start it, correct PREFECT_API_URL or the Prefect"
            " profile, or unset them: then a temporary server is started"
        )
    return True


@contextmanager
def prefect_api(log: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Start a temporary server, unless one is configured, for the flows run inside; yield what waits for its answer.

    The server's output goes to the file `log`, and while it is waited for, `say` is told now and then. It is stopped
    when this process exits, after Prefect has flushed.
    """
    set_prefect_defaults()

    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - reads its settings when imported
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415 - as above

    if require_configured_api():
        yield lambda: None
        return
    for variable in ("NO_PROXY", "no_proxy"):  # no proxy stands between a host and itself
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), HOST)))
    port = _free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    database = log.with_name("prefect.db")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_api", str(port), str(os.getpid()), f"{database}.lock"],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={
                "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
                **os.environ,
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT_UI_ENABLED": "0",
                "PYTHONSAFEPATH": "1",  # the current folder may be anybody's; Python 3.10 does not know of it
            },
        )
    atexit.register(_stop, process)
    _temporary.add(f"http://{HOST}:{port}/api")
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    refresh_global_settings_context()
    # A heartbeat tells a server that outlives the flow that the flow has died. This one does not outlive it, and
    # waiting for the heartbeat's thread costs a second at the end of every flow.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield lambda: _wait(process, port, log, say)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, say: Callable[[str], None]) -> None:
    """Wait for as long as the server's process lives: on a busy host it may take minutes to answer."""
    started = time.monotonic()
    told = 0.0
    while process.poll() is None:
        if _answers(f"http://{HOST}:{port}/api"):
            return
        waited = time.monotonic() - started
        if waited >= told + TOLD_EVERY_S:
            told = waited
            say(
                f"! the temporary Prefect server is starting, {waited:.0f} s by now: this host is busy, or the home"
                " folder is slow. Ctrl-C ends the wait; PREFECT_API_URL names a server that runs already"
            )
        time.sleep(POLL_S)
    last = "".join(f"\n    | {line}" for line in log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    raise EnginegateError(
        "the temporary Prefect server ended before it answered: (1) remove prefect.db beside its log in the home"
        " folder, a run killed while it was made leaves it broken; (2) or set PREFECT_API_URL to a running server;"
        f" (3) or mend what its log says{last}"
    )


def _answers(url: str) -> bool:
    try:
        # Prefect's own setting, or this host's address: http or https.
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_LIMIT_S):  # noqa: S310
            return True
    except (OSError, ValueError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(port: int, lock: str) -> None:
    import uvicorn  # noqa: PLC0415 - only in the server process
    from prefect.server.database import provide_database_interface  # noqa: PLC0415 - as above

    with FileLock(lock):  # two servers that make one database at once break it
        asyncio.run(provide_database_interface().create_db())
    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host=HOST, port=port, log_level="error", lifespan="on"
    )


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    _serve(int(sys.argv[1]), sys.argv[3])
