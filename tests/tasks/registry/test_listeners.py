"""What is promised of every listener, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest

from tasks.errors import StageError
from tasks.registry import listeners
from tasks.registry.channels import Channel, Channels, next_move
from tasks.registry.listeners import Listeners
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.signing import Signing
from tests.tasks.memory_objects import MemoryObjects

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.registry.moves import Move

STAGING = ChannelAddress("tiny", "cpu", ChannelName.STAGING)
MENDED = "; the registry is right, the next promotion tells it again"


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@dataclass
class Recorder:
    """A listener that keeps what it heard, and then does as it is told."""

    name: str = "the page"
    then: Callable[[], object] = lambda: None
    heard: list[Move] = field(default_factory=list)

    def hear(self, move: Move) -> None:
        self.heard.append(move)
        self.then()


def to_engine(channel: Channel, number: int = 1) -> Move:
    return next_move(
        channel,
        kind="promote",
        engine_id=f"tiny-cpu-fp32@{number:012x}",
        manifest=f"sha256:{number:064x}",
        reason="",
        override=None,
        who="ann",
    )


def moved(objects: MemoryObjects, *listening: Recorder) -> tuple[Channels, Move, list[str]]:
    """Move staging once; what the listeners were told of, and what people were told."""
    said: list[str] = []
    channels = Channels(objects, Signing(), Listeners(listening, said.append))
    return channels, channels.move(STAGING, to_engine), said


def test_every_listener_is_told_of_every_move_once_it_is_written_and_of_nothing_else(objects: MemoryObjects) -> None:
    first = Recorder()
    lengths: list[int] = []
    other = Channels(objects, Signing())
    second = Recorder("the pager", then=lambda: lengths.append(len(other.read(STAGING).moves)))
    channels, move, said = moved(objects, first, second)
    assert channels.move(STAGING, lambda _: None) is None
    with pytest.raises(StageError):
        channels.move(STAGING, give_up)
    again = channels.move(STAGING, lambda channel: to_engine(channel, 2))
    assert first.heard == second.heard == [move, again]
    assert lengths == [1, 2]
    assert said == []


def give_up(_channel: Channel) -> Move:
    raise StageError("no")


def fail(error: Exception) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "fault"),
    [(StageError("it is down\nand more"), "it is down"), (KeyError("k" * 999), "KeyError: 'k")],
)
def test_a_listener_that_fails_is_one_short_line_and_keeps_neither_the_move_nor_another_listener(
    objects: MemoryObjects, error: Exception, fault: str
) -> None:
    other = Recorder("the pager")
    channels, move, said = moved(objects, Recorder(then=lambda: fail(error)), other)
    (line,) = said
    assert line.startswith(f"! the page was not told: {fault}")
    assert line.endswith(MENDED)
    assert len(line) < 450
    assert "\n" not in line
    assert channels.read(STAGING).current == move == other.heard[0]


def test_silent_listeners_hold_a_move_up_for_the_limit_once_and_not_each(
    objects: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LIMIT_S", 0.2)
    over = Event()
    waits: list[float] = []
    clock = iter([0.0, 0.0, 0.2])
    monkeypatch.setattr(listeners.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(listeners.Thread, "join", lambda _thread, timeout: waits.append(timeout))
    _, _, said = moved(objects, Recorder(then=over.wait), Recorder("the pager", then=over.wait))
    over.set()
    assert said == [f"! {name} was not told: no answer within 0.2 s{MENDED}" for name in ("the page", "the pager")]
    assert waits == [0.2, 0.0]


def test_one_that_is_left_behind_does_not_keep_the_process() -> None:
    code = (
        "import time; from types import SimpleNamespace as N; from tasks.registry import listeners;"
        "listeners.LIMIT_S = 0.1; silent = N(name='the page', hear=lambda _: time.sleep(600));"
        "listeners.Listeners([silent], print).tell(None)"
    )
    root = Path(listeners.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"! the page was not told: no answer within 0.1 s{MENDED}\n"
