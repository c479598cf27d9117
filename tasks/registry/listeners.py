"""Who is told of what a registry's histories gain: what lies outside and shows where channels and rollouts are.

The registry is the truth and a listener keeps a copy. So whatever becomes of one, the move stands, whoever made it goes
on after `LIMIT_S` seconds, and people are told in one line. Moves and steps alone are told: a listener that missed one
catches up at the next, where it shows what the registry holds and not what it is told.
"""

from __future__ import annotations

import time
from threading import Thread
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tasks.errors import EnginegateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# For all listeners together. MLflow is imported in 2 to 3 s, and then takes milliseconds.
LIMIT_S = 20.0
_LONGEST_FAULT = 300
Heard_contra = TypeVar("Heard_contra", contravariant=True)
Told = TypeVar("Told")


class Listener(Protocol[Heard_contra]):
    """Something that is told of every move of a channel, or every step of a rollout, after it was written."""

    @property
    def name(self) -> str:
        """What people call it: `MLflow`."""

    def hear(self, move: Heard_contra, /) -> None:
        """Show where the channels of this move's model and target point now.

        It runs in a thread of its own, which is left behind when it takes too long, and may raise anything. Others may
        move channels meanwhile: read the registry, write, and read it again until nothing moved, so that what is
        written last is the newest.
        """


class Listeners(Generic[Told]):
    """The listeners of a registry, each told in a way that can neither fail nor hold up a move."""

    def __init__(
        self,
        listeners: Sequence[Listener[Told]] = (),
        say: Callable[[str], None] = lambda _: None,
        again: str = "the next promotion tells it again",
    ) -> None:
        """Tell these, and `say` in one line which of them could not be told, why, and when they will be: `again`."""
        self._listeners, self._say, self._again = listeners, say, again

    def tell(self, move: Told) -> None:
        """Tell all of them of a move at once. Never raises, and takes at most `LIMIT_S` seconds."""
        faults: dict[str, str] = {}
        # Daemons: one that is left behind, since its server is silent, ends with the process.
        threads = {one.name: Thread(target=_try, args=(one, move, faults), daemon=True) for one in self._listeners}
        for thread in threads.values():
            thread.start()
        deadline = time.monotonic() + LIMIT_S
        for name, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            fault = f"no answer within {LIMIT_S:g} s" if thread.is_alive() else faults.get(name)
            if fault is not None:
                self._say(f"! {name} was not told: {fault}; the registry is right, {self._again}")


def _try(listener: Listener[Told], move: Told, faults: dict[str, str]) -> None:
    try:
        listener.hear(move)
    except EnginegateError as error:
        faults[listener.name] = _in_one_line(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the channel was moved, and that alone counts
        faults[listener.name] = _in_one_line(f"{type(error).__name__}: {error}")


def _in_one_line(message: str) -> str:
    first = message.strip().partition("\n")[0]
    return first if len(first) <= _LONGEST_FAULT else f"{first[:_LONGEST_FAULT]}…"
