"""The journal of conversions that commits asked for: one record a model, in the state folder.

A record is read, changed and written under its own lock, which is held for that moment only. The work itself is held by
`Journal.hold`, and whoever asks holds a lock of its own for as long as it means to see to it, `Journal.asking`. The
kernel frees both when their process dies: an unfinished entry of which no asker lives is of processes that were killed.
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from flows.conversion.conversion_report import EngineResult
from tasks.declared import Frozen, Name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tasks.store.record_folder import RecordFolder

STAGE, WORK, ASKER = "journal", "conversion", "asker"
KEPT = 200
"""Finished entries of one model; older ones go."""
LONGEST_TEXT, LONGEST_NOTE = 2000, 200
"""Of a reason and of a note, in characters: what a model's own code says may have any length."""
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


class Request(Frozen):
    """What is asked for: a version of a model, as it is in a commit. Two equal ones are one conversion.

    `version` is None where the model is broken; `directory` is relative to the repository, and empty for its top.
    """

    commit: str
    version: str | None
    directory: str


class Entry(Frozen):
    """A request and what became of it. Times are UTC in ISO 8601; `exit_code` is that of its conversion.

    `askers` are those who asked for it, `planned` the ids of the engines that were to be made then, and `note` is what
    it waits for while it runs.
    """

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
    askers: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()
    note: str = ""

    @property
    def since(self) -> str:
        """When it came to its state."""
        return self.ended_at or self.started_at or self.asked_at


class _Record(Frozen):
    model: str
    entries: tuple[Entry, ...]


class Journal:
    """The entries of every model, oldest first, as `state` holds them."""

    def __init__(self, state: RecordFolder) -> None:
        self._state = state

    def models(self) -> tuple[str, ...]:
        """The models that have entries, sorted."""
        records = (self._read(key) for key in self._state.list_records(STAGE))
        return tuple(sorted(record.model for record in records if record is not None))

    def entries(self, model: str) -> tuple[Entry, ...]:
        """The entries of a model."""
        record = self._read(key_of(model))
        return () if record is None else record.entries

    def find(self, model: str, request: Request) -> Entry | None:
        """The entry of a request."""
        return next((entry for entry in self.entries(model) if entry.request == request), None)

    @contextmanager
    def asking(self) -> Iterator[str]:
        """Within, what is asked for by the asker that this gives is known to have somebody who sees to it."""
        asker = uuid.uuid4().hex  # of its own: threads of one process are askers like any
        with self._state.lock(ASKER, asker):
            yield asker

    def is_asked(self, entry: Entry, besides: str | None = None) -> bool:
        """Whether an entry is unfinished and somebody who asked for it lives, `besides` left out."""
        return entry.state in UNFINISHED and any(asker != besides for asker in self._living(entry))

    def _living(self, entry: Entry) -> tuple[str, ...]:
        return tuple(asker for asker in entry.askers if self._state.is_locked(ASKER, asker))

    def ask(
        self,
        model: str,
        request: Request,
        ref: str | None = None,
        *,
        asker: str | None = None,
        planned: Iterable[str] = (),
    ) -> Entry:
        """Enter a request, as waiting; again, if it ended without verdicts or everybody who asked for it has died.

        One that waits, runs or is done stays as it is, with one more asker: the same request is one conversion.
        """
        askers = () if asker is None else (asker,)
        new = Entry(request=request, state=State.WAITING, asked_at=now(), ref=ref, planned=tuple(planned))

        def enter(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            held = next((entry for entry in entries if entry.request == request), None)
            living = () if held is None else self._living(held)
            if held is not None and (held.state in {State.WAITING, State.DONE} or self.is_asked(held)):
                joined = held.model_copy(update={"askers": living + askers})
                return tuple(joined if entry is held else entry for entry in entries)
            others = (entry for entry in entries if entry.request != request)
            return (*others, new.model_copy(update={"askers": living + askers}))

        return _entry_of(self._change(model, enter), request)

    def rivals(self, model: str, request: Request, ref: str | None, since: str | None = None) -> Iterator[str]:
        """The commits of which another version is on its way, or, since then, done; none of another branch, if told."""
        for entry in self.entries(model):
            same = ref is None or entry.ref is None or _branch(ref) == _branch(entry.ref)
            came = since is not None and entry.state is State.DONE and entry.since > since
            if same and entry.request.version != request.version and (came or self.is_asked(entry)):
                yield entry.request.commit

    def start(self, model: str, request: Request) -> Entry:
        """Say that a request runs. Only who holds the model may."""
        cleared: dict[str, Any] = {"ended_at": None, "exit_code": None, "reason": "", "superseded_by": None, "note": ""}
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
        """Say what became of a request; reasons are cut."""
        made = tuple(engine.model_copy(update={"reason": cut(engine.reason)}) for engine in engines)
        result: dict[str, Any] = {"exit_code": exit_code, "reason": cut(reason), "superseded_by": superseded_by}
        return self._update(model, request, state=state, ended_at=now(), engines=made, note="", **result)

    def note(self, model: str, request: Request, text: str) -> None:
        """Say what a request waits for while it runs; empty: for nothing."""
        self._update(model, request, note=cut(text, LONGEST_NOTE))

    def hold(self, model: str) -> AbstractContextManager[None]:
        """Hold the conversions of a model: of all processes, one has it."""
        return self._state.lock(WORK, key_of(model))

    def is_held(self, model: str) -> bool:
        """Whether a live process holds the conversions of a model."""
        return self._state.is_locked(WORK, key_of(model))

    def _update(self, model: str, request: Request, **changes: Any) -> Entry:
        def put(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            held = next((entry for entry in entries if entry.request == request), None)
            if held is None:  # somebody removed the record meanwhile
                return (*entries, Entry(request=request, asked_at=now(), **changes))
            return tuple(held.model_copy(update=changes) if entry is held else entry for entry in entries)

        return _entry_of(self._change(model, put), request)

    def _change(self, model: str, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> tuple[Entry, ...]:
        key = key_of(model)
        with self._state.lock(STAGE, key):
            record = self._read(key)
            before = () if record is None else record.entries
            after = _bounded(change(before))
            if after != before:
                self._state.write_record(STAGE, key, _Record(model=model, entries=after).model_dump(mode="json"))
        return after

    def _read(self, key: str) -> _Record | None:
        content = self._state.read_record(STAGE, key)
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


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text of at most `longest` characters (30 at least) that says how many it had if it was cut."""
    if len(text) <= longest:
        return text
    end = f"… ({len(text)} characters)"
    return text[: longest - len(end)] + end


def clean(text: str) -> str:
    """A text that any reader can decode, cut: names of git may be no UTF-8."""
    return cut(text.encode(errors="backslashreplace").decode())


def now() -> str:
    """The time, UTC, in ISO 8601 to the microsecond: of two such texts the later is the greater one."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _branch(ref: str) -> str:
    return ref.removeprefix("refs/heads/")


def _entry_of(entries: tuple[Entry, ...], request: Request) -> Entry:
    return next(entry for entry in entries if entry.request == request)


def _bounded(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    finished = [entry for entry in entries if entry.state not in UNFINISHED]
    old = sorted(finished, key=lambda entry: entry.since)[: max(0, len(finished) - KEPT)]
    gone = {entry.request for entry in old}
    return tuple(entry for entry in entries if entry.request not in gone)
