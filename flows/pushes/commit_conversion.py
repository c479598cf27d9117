"""Converts what a commit changed: each model once, in a process of its own, from a clean export of that commit.

Every model that the plan names is first entered into the journal, then converted while its lock is held. Whoever gets
the lock looks into the journal again: what another process did meanwhile is not done twice, and a commit is left out
where a newer one of the same model is on its way or came while this one waited. Newer is what builds on it, not what
came later; and what was done before this one was asked for leaves nothing out: a branch may go back.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flows.console import ELSEWHERE, short_commit
from flows.conversion.conversion_report import EngineResult
from flows.pushes.conversion_process import CONVERT, Ended, run_child
from flows.pushes.journal import LONGEST_NOTE, Entry, Journal, Request, State, clean, cut, now
from flows.pushes.planning import known_engines, plan_of
from flows.pushes.verdict_table import ModelResult
from tasks.errors import VERDICT_CODES, WORST_FIRST, EnginegateError, ExitCode, InputError, printable, worst_of
from tasks.git.commit import Commit
from tasks.git.push_plan import CellWork, ModelChange, PushPlan, is_zero
from tasks.records import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flows.session import Session
    from tasks.git.repository import Repository

    Known = Callable[[Cell], str | None]

DELETED = "the branch was deleted: there is nothing to convert"
_STOPPED = "stopped from outside; send the commit again"


@dataclass(frozen=True)
class Order:
    """What to convert, and how.

    `commit` and `old` are any revisions, and without `old` it is the first parent; a `commit` of zeros is a branch that
    was deleted. `ref` is the branch: commits of two branches do not supersede each other.
    `lfs` takes files of git LFS from the repository's own store; `models`, unless None, are the only ones to convert.
    `again` is the reason for making the engines again although they are made, registered or judged.
    `convert` is the command that is given a model directory, and `known` says of a cell why it needs no work.
    """

    commit: str
    old: str | None = None
    ref: str | None = None
    lfs: bool = False
    models: Sequence[str] | None = None
    again: str | None = None
    convert: Sequence[str] = CONVERT
    known: Known | None = None


@dataclass(frozen=True)
class CommitResult:
    """What became of the models of a commit; `model` is None where a broken one has no name."""

    commit: str
    models: tuple[tuple[str | None, Entry], ...]
    broken: bool

    @property
    def exit_code(self) -> ExitCode:
        """2 where a model is broken, else the worst of the conversions."""
        # A broken model is the commit's own fault, and is told first.
        return ExitCode.BAD_INPUT if self.broken else worst_of(entry.exit_code for _, entry in self.models)

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {"commit": self.commit, "models": [model.model_dump(mode="json") for model in self.results]}

    @property
    def results(self) -> list[ModelResult]:
        """What became of each model."""
        return [ModelResult.of(name, entry) for name, entry in self.models]


def convert_commit(session: Session, repository: Repository, order: Order) -> CommitResult:
    """Convert the models that a commit changed, one after the other; one that fails does not stop the others.

    Raises:
        InputError: a revision is none, or the repository lacks its commit.
    """
    if is_zero(order.commit):
        return CommitResult(order.commit, (), broken=False)
    plan = plan_of(session, repository, order.old or None, order.commit)
    journal = Journal(session.state)
    with journal.asking() as asker:
        push = _Push(session, repository, plan, order, journal, asker)
        asked = [(model, push.ask(model)) for model in _affected(plan, order.models)]
        try:
            done = [(model.name and _key(model), push.convert(model, entry)) for model, entry in asked]
        except BaseException:
            push.withdraw()
            raise
    return CommitResult(plan.new, tuple(done), any(model.broken for model, _ in asked))


def _affected(plan: PushPlan, names: Sequence[str] | None) -> list[ModelChange]:
    """The models that are new, changed or broken; those with nothing to make have verdicts to tell all the same."""
    models = [model for model in plan.models if model.broken or model.cells]
    return [model for model in models if names is None or model.name in names]


@dataclass
class _Push:
    session: Session
    repository: Repository
    plan: PushPlan
    order: Order
    _journal: Journal
    _asker: str
    _asked_at: str = field(default_factory=now)
    _builds_on: dict[str, bool] = field(default_factory=dict)
    _lines: dict[str, str] = field(default_factory=dict)
    _notes: dict[str, str] = field(default_factory=dict)

    @property
    def _ref(self) -> str | None:
        return None if self.order.ref is None else clean(self.order.ref)

    def _request(self, model: ModelChange) -> Request:
        return Request(commit=self.plan.new, version=model.version, directory=clean(model.directory))

    def ask(self, model: ModelChange) -> Entry:
        """Enter the model into the journal."""
        planned = [work.cell.engine_id for work in model.cells if work.needed]
        return self._journal.ask(_key(model), self._request(model), self._ref, asker=self._asker, planned=planned)

    def withdraw(self) -> None:
        """Say of what waits still that nobody will come to it, unless somebody else asked for it too."""
        for model in _affected(self.plan, self.order.models):
            entry = self._journal.find(_key(model), self._request(model))
            waits = entry is not None and entry.state is State.WAITING
            if entry is not None and waits and not self._journal.is_asked(entry, besides=self._asker):
                self._journal.finish(_key(model), entry.request, State.CANCELLED, exit_code=1, reason=_STOPPED)

    def convert(self, model: ModelChange, entry: Entry) -> Entry:
        """Convert a model, unless it is broken, converted or superseded; what the journal says of it then."""
        name = _key(model)
        if model.broken:
            return self._fail(name, entry.request, ExitCode.BAD_INPUT, model.broken)
        if not model.needs_work and self.order.again is None:
            return self._held(model, entry)
        if self._journal.is_held(name):
            self._say(name, f"waits for the conversion that runs ({_running(self._journal.entries(name))})")
        with self._journal.hold(name):
            settled = self._settled(model, entry) if self.order.again is None else None
            return settled or self._superseded(name, entry) or self._run(model, entry)

    def _held(self, model: ModelChange, entry: Entry) -> Entry:
        if entry.state is State.DONE:
            return entry
        self._say(_key(model), "converted before")
        engines = [self._known_engine(work.cell, work.reason) for work in model.cells]
        code = worst_of(VERDICT_CODES[engine.verdict] for engine in engines)
        return self._journal.finish(
            _key(model), entry.request, State.DONE, exit_code=code, reason="converted before", engines=engines
        )

    def _known_engine(self, cell: Cell, reason: str) -> EngineResult:
        rejected = self.session.rejected.find(cell)
        verdict = "pass" if rejected is None else rejected.verdict.outcome.value
        registered = self.session.registry.engines.has(cell)
        return EngineResult(engine_id=cell.engine_id, verdict=verdict, reason=reason, registered=registered)

    def _settled(self, model: ModelChange, entry: Entry) -> Entry | None:
        """The entry, if this version has its verdicts, or this very request failed while this process waited."""
        name, known = _key(model), self._known()
        for other in self._journal.entries(name):
            if other.request == entry.request and other.state is State.FAILED and other.since > self._asked_at:
                self._say(name, f"✕ {other.reason}")
                return other
            if other.state is State.DONE and other.request.version == entry.request.version and _lasts(other, known):
                self._say(name, f"converted before, of commit {short_commit(other.request.commit)}")
                return other if other.request == entry.request else self._share(name, entry, other)
        # What was made after the plan, by a process that was killed before it could say so.
        found = [CellWork(work.cell, False, known(work.cell) or "") for work in model.cells]
        return self._held(replace(model, cells=tuple(found)), entry) if all(work.reason for work in found) else None

    def _known(self) -> Known:
        """As of now: the registry is read again."""
        return self.order.known or known_engines(self.session)

    def _share(self, name: str, entry: Entry, done: Entry) -> Entry:
        reason = f"converted before, of commit {short_commit(done.request.commit)}"
        return self._journal.finish(
            name, entry.request, State.DONE, exit_code=done.exit_code or 0, reason=reason, engines=done.engines
        )

    def _superseded(self, name: str, entry: Entry) -> Entry | None:
        newer = self._newer(name, entry.request, came=True)
        if newer is None:
            return None
        self._say(name, f"superseded by commit {short_commit(newer)}")
        reason = f"commit {short_commit(newer)} is newer"
        return self._journal.finish(
            name, entry.request, State.SUPERSEDED, exit_code=0, reason=reason, superseded_by=newer
        )

    def _newer(self, name: str, request: Request, *, came: bool = False) -> str | None:
        """A commit that builds on this one and whose other version of the model is on its way, or `came` meanwhile."""
        rivals = self._journal.rivals(name, request, self._ref, self._asked_at if came else None)
        return next(filter(self._is_later, rivals), None)

    def _is_later(self, commit: str) -> bool:
        if commit not in self._builds_on:
            self._builds_on[commit] = commit != self.plan.new and self._builds(commit)
        return self._builds_on[commit]

    def _builds(self, commit: str) -> bool:
        """Whether a commit builds on this one, unless this very push takes it back."""
        try:
            taken_back = self.plan.forced and self.repository.is_ancestor(commit, self.plan.old or self.plan.new)
            return not taken_back and self.repository.is_ancestor(self.plan.new, commit)
        except InputError:  # of another repository, or not fetched: nobody knows which is newer
            return False

    def _run(self, model: ModelChange, entry: Entry) -> Entry:
        name, request = _key(model), entry.request
        self._journal.start(name, request)
        try:
            ended = self._convert(model, request)
        except EnginegateError as error:
            return self._fail(name, request, error.exit_code, str(error))
        except OSError as error:
            reason = f"{error.strerror or error}; correct that and send the commit again"
            return self._fail(name, request, ExitCode.UNEXPECTED, reason)
        except BaseException:  # Ctrl-C, or a Prefect run that was cancelled
            self._journal.finish(name, request, State.CANCELLED, exit_code=1, reason=_STOPPED)
            raise
        return self._conclude(name, request, ended)

    def _convert(self, model: ModelChange, request: Request) -> Ended:
        name = _key(model)
        commit = Commit(self.repository, self.repository.tree(request.commit))
        with self.session.store.scratch() as folder:
            export = folder / "export"
            self.repository.export(
                request.commit,
                commit.needed_paths(model.directory),
                export,
                lfs="store" if self.order.lfs else "refuse",
            )
            return run_child(
                self._command(export / model.directory, request.commit),
                folder,
                functools.partial(self._hear, name),
                functools.partial(self._look, name, request),
            )

    def _hear(self, name: str, line: str) -> None:
        """Pass on a line of the conversion; from another thread."""
        self._lines[name] = line
        if line.startswith(f"{ELSEWHERE} "):
            self._notes[name] = " ".join(line.removeprefix(ELSEWHERE).split()) if "waiting" in line else ""
        self._say(name, line)

    def _look(self, name: str, request: Request) -> bool:
        """Every few seconds: keep what the conversion waits for, and say whether a newer commit is to end it."""
        note = self._notes.pop(name, None)
        if note is not None:
            self._journal.note(name, request, note)
        return self.session.settings.supersede == "cancel" and self._newer(name, request) is not None

    def _command(self, directory: Path, commit: str) -> list[str]:
        again = () if self.order.again is None else ("--again", self.order.again)
        return [*self.order.convert, os.fspath(directory), "--source-commit", commit, *again, "--json"]

    def _conclude(self, name: str, request: Request, ended: Ended) -> Entry:
        if ended.stopped:
            newer = self._newer(name, request, came=True)  # none, if it has ended since
            reason = (
                f"cancelled: {f'commit {short_commit(newer)}' if newer else 'a commit that has ended since'} is newer"
            )
            return self._journal.finish(name, request, State.CANCELLED, exit_code=0, reason=reason, superseded_by=newer)
        report = ended.made(request.version)
        if report is None:
            failed = ended.code in WORST_FIRST and ended.code not in VERDICT_CODES.values()
            return self._fail(
                name, request, ended.code if failed else ExitCode.UNEXPECTED, ended.failure(request.version)
            )
        return self._journal.finish(name, request, State.DONE, exit_code=ended.code, engines=report.results)

    def _fail(self, name: str, request: Request, code: int, reason: str) -> Entry:
        # The conversion's own last line says it already where it could.
        if not self._lines.get(name, "").endswith(reason.rpartition("\n")[2] or " "):
            self._say(name, f"✕ {reason}")
        return self._journal.finish(name, request, State.FAILED, exit_code=code, reason=clean(reason))

    def _say(self, name: str, text: str) -> None:
        for line in cut(text).splitlines():
            self.session.reporter.marked(f"{printable(name)} | {printable(line)}")


def _lasts(done: Entry, known: Known) -> bool:
    """Whether what was registered still is: an engine that the registry has removed since is made again."""
    return all(known(Cell.parse(engine.engine_id)) for engine in done.engines if engine.registered)


def _running(entries: Sequence[Entry]) -> str:
    commits = [short_commit(entry.request.commit) for entry in entries if entry.state is State.RUNNING]
    return f"commit {commits[0]}" if commits else "it starts"


def _key(model: ModelChange) -> str:
    """What the journal knows a model by; one that is broken so that it has no name, by its directory."""
    return cut(clean(model.name if model.name is not None else f"{model.directory or '.'}/"), LONGEST_NOTE)
