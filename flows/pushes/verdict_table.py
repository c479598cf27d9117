"""What became of a commit's models, for GitHub: a table in Markdown, and a commit status for each engine.

Names, paths and reasons come from a commit or from the model's own code, so each of them is a stranger's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.console import MARKS, short_commit
from flows.conversion.conversion_report import EngineResult
from flows.pushes.journal import Entry, State
from tasks.declared import Frozen
from tasks.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


HEADINGS = ("", "model", "commit's version", "state", "engine", "verdict", "reason")
STATES = {"pass": "success", "fail": "failure", "inconclusive": "error"}
LONGEST_CELL = 300
LONGEST_DESCRIPTION = 140
"""Characters; what GitHub takes at most in a commit status."""
LONGEST_CONTEXT = 200


class ModelResult(Frozen):
    """What became of one model of a commit, as `enginegate convert-commit --json` tells it."""

    model: str | None
    directory: str
    version: str | None
    state: State
    exit_code: int | None = None
    reason: str = ""
    engines: tuple[EngineResult, ...] = ()

    @classmethod
    def of(cls, model: str | None, entry: Entry) -> ModelResult:
        """What an entry of the journal says."""
        return cls(
            model=model,
            directory=entry.request.directory or ".",
            version=entry.request.version,
            state=entry.state,
            exit_code=entry.exit_code,
            reason=entry.reason,
            engines=entry.engines,
        )

    @property
    def name(self) -> str:
        """The model's name; where it is broken so that it has none, its directory."""
        return self.model or self.directory


def verdict_table(commit: str, models: Sequence[ModelResult]) -> str:
    """The table in Markdown, ending in a new line."""
    if not models:
        return f"### Engines of {_code(short_commit(commit))}\n\nThis push changes no model in effect.\n"
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *(row for model in models for row in _rows(model))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### Engines of {_code(short_commit(commit))}\n\n{table}\n"


def _rows(model: ModelResult) -> Iterator[tuple[str, ...]]:
    about = (_code(model.name), _code(model.version or "-"), model.state.value)
    if not model.engines:
        done = model.state is State.DONE and model.exit_code == 0
        yield ("✓" if done else "✕", *about, "-", "-", _code(model.reason))
    for engine in model.engines:
        verdict = engine.verdict if engine.verdict in MARKS else "-"
        reason = engine.reason or model.reason
        yield (MARKS.get(verdict, "✕"), *about, _code(_cell_of(engine.engine_id)), verdict, _code(reason))


def _code(text: str) -> str:
    """A text as code, in which Markdown knows no link, tag, mention or column; two characters are replaced for it."""
    line = _line(text).replace("`", "'").replace("|", "¦")
    return f"`{_short(line, LONGEST_CELL)}`" if line else "-"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _cell_of(engine_id: str) -> str:
    return engine_id.partition("@")[0]


def commit_statuses(models: Sequence[ModelResult], exit_code: int) -> list[dict[str, Any]]:
    """A commit status of GitHub's API for all, `enginegate`, one for each engine, and one for each model without any.

    A pass is `success`, a fail `failure`; everything else is `error`, also a commit that a newer one has superseded.
    """
    overall = _status("", "failure" if exit_code else "success", f"exit code {exit_code}")
    return [overall, *(status for model in models for status in _statuses(model))]


def lacking_status(reason: str) -> dict[str, Any]:
    """The commit status of a push without verdicts: an `error`, until it is submitted again."""
    return _status("", "error", reason)


def _statuses(model: ModelResult) -> Iterator[dict[str, Any]]:
    for engine in model.engines:
        said = ": ".join(filter(None, (engine.verdict, engine.reason or model.reason)))
        yield _status(_cell_of(engine.engine_id), STATES.get(engine.verdict, "error"), said)
    if not model.engines:
        state = "failure" if model.state is State.FAILED else "error"
        yield _status(model.name, state, ": ".join(filter(None, (model.state.value, model.reason))))


def _status(name: str, state: str, said: str) -> dict[str, Any]:
    return {
        "state": state,
        "context": _short(_line(f"enginegate/{name}" if name else "enginegate"), LONGEST_CONTEXT),
        "description": _short(_line(said), LONGEST_DESCRIPTION),
    }
