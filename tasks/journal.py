"""The journal of conversions that commits asked for: one record a model, in the artifact store.

A record is read, changed and written under its own lock, which is held for that moment only. The work itself is held by
`Journal.hold`, whose lock the kernel frees when its process dies: an entry that says `running` while nobody holds the
model is of a process that was killed.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from tasks.specs import Frozen, Name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from tasks.store.interface import ArtifactStore

STAGE, WORK = "journal", "conversion"
KEPT = 200
"""Finished entries of one model; older ones go."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class State(str, Enum):
    """How a request stands. `done` has verdicts, whatever they are; `failed` has none."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({State.WAITING, State.RUNNING})


class EngineResult(Frozen):
    """What came of one engine."""

    engine_id: str
    verdict: str
    reason: str = ""
    registered: bool = False


class Request(Frozen):
    """What is asked for: a version of a model, as it is in a commit. Two equal ones are one conversion.

    `version` is None where the model is broken; `directory` is relative to the repository, and empty for its top.
    """

    commit: str
    version: str | None
    directory: str


class Entry(Frozen):
    """A request and what became of it. Times are UTC in ISO 8601; `exit_code` is that of its conversion."""

    request: Request
    state: State
    asked_at: str
    ref: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    reason: str = ""
    superseded_by: str | None = None
    engines: tuple[EngineResult, ...] = ()

    @property
    def since(self) -> str:
        """When it came to its state."""
        return self.ended_at or self.started_at or self.asked_at


class _Record(Frozen):
    model: str
    entries: tuple[Entry, ...]


class Journal:
    """The entries of every model, oldest first, as `store` holds them."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def models(self) -> tuple[str, ...]:
        """The models that have entries, sorted."""
        records = (self._read(key) for key in self._store.list_records(STAGE))
        return tuple(sorted(record.model for record in records if record is not None))

    def entries(self, model: str) -> tuple[Entry, ...]:
        """The entries of a model."""
        record = self._read(key_of(model))
        return () if record is None else record.entries

    def find(self, model: str, request: Request) -> Entry | None:
        """The entry of a request."""
        return next((entry for entry in self.entries(model) if entry.request == request), None)

    def ask(self, model: str, request: Request, ref: str | None = None) -> Entry:
        """Enter a request, as waiting; again, if it ended without verdicts.

        One that waits, runs or is done stays as it is: the same request is one conversion.
        """
        new = Entry(request=request, state=State.WAITING, asked_at=now(), ref=ref)

        def enter(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            held = next((entry for entry in entries if entry.request == request), None)
            if held is not None and held.state in UNFINISHED | {State.DONE}:
                return entries
            return (*(entry for entry in entries if entry.request != request), new)

        return _entry_of(self._change(model, enter), request)

    def start(self, model: str, request: Request) -> Entry:
        """Say that a request runs. Only who holds the model may."""
        cleared: dict[str, Any] = {"ended_at": None, "exit_code": None, "reason": "", "superseded_by": None}
        return self._update(model, request, state=State.RUNNING, started_at=now(), engines=(), **cleared)

    def finish(
        self,
        model: str,
        request: Request,
        state: State,
        *,
        exit_code: int,
        reason: str = "",
        engines: Iterable[EngineResult] = (),
        superseded_by: str | None = None,
    ) -> Entry:
        """Say what became of a request."""
        result: dict[str, Any] = {"exit_code": exit_code, "reason": reason, "superseded_by": superseded_by}
        return self._update(model, request, state=state, ended_at=now(), engines=tuple(engines), **result)

    def hold(self, model: str) -> AbstractContextManager[None]:
        """Hold the conversions of a model: of all processes, one has it."""
        return self._store.lock(WORK, key_of(model))

    def is_held(self, model: str) -> bool:
        """Whether a live process holds the conversions of a model."""
        return self._store.is_locked(WORK, key_of(model))

    def _update(self, model: str, request: Request, **changes: Any) -> Entry:
        def put(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            held = next((entry for entry in entries if entry.request == request), None)
            if held is None:  # somebody removed the record meanwhile
                return (*entries, Entry(request=request, asked_at=now(), **changes))
            return tuple(held.model_copy(update=changes) if entry is held else entry for entry in entries)

        return _entry_of(self._change(model, put), request)

    def _change(self, model: str, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> tuple[Entry, ...]:
        key = key_of(model)
        with self._store.lock(STAGE, key):
            record = self._read(key)
            before = () if record is None else record.entries
            after = _bounded(change(before))
            if after != before:
                self._store.write_record(STAGE, key, _Record(model=model, entries=after).model_dump(mode="json"))
        return after

    def _read(self, key: str) -> _Record | None:
        content = self._store.read_record(STAGE, key)
        try:
            return None if content is None else _Record.model_validate(content)
        except ValidationError:  # as any unreadable record is none: what it told is done again, and found done
            return None


def key_of(model: str) -> str:
    """The key of a model's record: its name, or, where a broken model.yaml gives it another text, digits of that."""
    try:
        return _NAME.validate_python(model)
    except ValidationError:  # no name holds an underscore
        return f"_{hashlib.sha256(model.encode(errors='surrogateescape')).hexdigest()[:24]}"


def now() -> str:
    """The time, UTC, in ISO 8601 to the microsecond: of two such texts the later is the greater one."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _entry_of(entries: tuple[Entry, ...], request: Request) -> Entry:
    return next(entry for entry in entries if entry.request == request)


def _bounded(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    finished = [entry for entry in entries if entry.state not in UNFINISHED]
    old = sorted(finished, key=lambda entry: entry.since)[: max(0, len(finished) - KEPT)]
    gone = {entry.request for entry in old}
    return tuple(entry for entry in entries if entry.request not in gone)
