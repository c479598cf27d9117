from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

import pytest

from flows import prefect_api
from tasks.errors import EnginegateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server(subprocess.Popen[bytes]):
    """A server's process without a process: it lives for so many looks, for ever by default."""

    def __init__(self, looks: int | None = None) -> None:
        self.codes: Iterator[int | None] = itertools.chain(
            itertools.repeat(None) if looks is None else itertools.repeat(None, looks), itertools.repeat(1)
        )

    def poll(self) -> int | None:
        return next(self.codes)

    def __del__(self) -> None: ...


@pytest.fixture
def _slow_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which each look at the clock finds five seconds gone, and where waiting takes no time."""
    clock = itertools.count(step=5)
    monkeypatch.setattr(prefect_api.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(prefect_api.time, "sleep", lambda _seconds: None)


@pytest.mark.usefixtures("_slow_host")
def test_a_server_is_waited_for_as_long_as_it_lives_and_the_wait_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = itertools.chain(itertools.repeat(False, 60), itertools.repeat(True))  # after 300 s
    monkeypatch.setattr(prefect_api, "_answers", lambda _url: next(answers))
    told: list[str] = []
    prefect_api._wait(Server(), 9, tmp_path / "log", told.append)  # noqa: SLF001 - the wait alone
    assert len(told) == 10
    assert told[0].startswith("! the temporary Prefect server is starting, 30 s by now: this host is busy")


@pytest.mark.usefixtures("_slow_host")
def test_a_server_that_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prefect_api, "_answers", lambda _url: False)
    (tmp_path / "log").write_text("OSError: no space\n")
    with pytest.raises(EnginegateError, match=r"ended before it answered: [\s\S]*\| OSError: no space"):
        prefect_api._wait(Server(looks=2), 9, tmp_path / "log", print)  # noqa: SLF001 - as above
