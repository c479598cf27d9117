"""What people see while a conversion runs: the matrix, one line a step, a bar on long ones, and a last table."""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tasks.backends import CPU
from tasks.errors import EnginegateError, printable
from tasks.rule_view import deciding_sentence, deciding_words
from tasks.store.stage_cache import StageResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.records import Cell, EngineOutcome

Result = TypeVar("Result")

PASSED, FAILED, UNDECIDED, ELSEWHERE = "✓", "✕", "?", "→"
MARKS = {"pass": PASSED, "fail": FAILED, "inconclusive": UNDECIDED}
"""A mark by verdict."""
COLOURS = {PASSED: "green", FAILED: "red", UNDECIDED: "yellow", ELSEWHERE: "cyan", "!": "yellow"}
STEP_WIDTH = 34
ENGINE_ROW = "  {:<14}  {:>9}  {:>8}  {:>8}  {:<19}  {}"
RULE_INDENT = "    "
REASON_CHARACTERS = 60
# Wider than any line: an engine id that is cut off cannot be copied. A terminal wraps what is too long for it.
TABLE_WIDTH = 500


@dataclass(frozen=True)
class Step:
    """A step that was done, for the JSON document."""

    name: str
    cached: bool
    seconds: float


CHECK_WIDTH = 80
SUBJECT_WIDTH = 12


class Reporter:
    """Writes for people: to standard output, or to standard error when that belongs to a JSON document."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._tables = Console(file=stream, highlight=False, soft_wrap=True, width=TABLE_WIDTH)
        self.steps: list[Step] = []

    def say(self, text: str = "") -> None:
        """Print a line as it is."""
        self._console.print(text, markup=False)

    def step(
        self,
        name: str,
        work: Callable[[Callable[[int, int], None]], Result],
        describe: Callable[[Result], str],
        *,
        tells_why: bool = True,
    ) -> Result:
        """Run `work` with a function for its progress; then print its line, ✓ or ✕, with seconds.

        Its error is told on that line, unless `tells_why` is false, where it is what the command ends with.
        """
        started = time.perf_counter()
        try:
            with self._bar(name) as progress:
                bar = progress.add_task(name, total=None)
                result = work(lambda done, total: progress.update(bar, completed=done, total=total))
        except EnginegateError as error:
            why = str(error).partition("\n")[0] if tells_why else "failed"
            self._line(FAILED, name, why, time.perf_counter() - started)
            raise
        cached = isinstance(result, StageResult) and result.cached
        if cached and any(step.name == name for step in self.steps):
            return result  # told already: the command did it before the flow that finds it done
        detail = describe(result) + (" (cached)" if cached else "")
        self.steps.append(Step(name, cached, time.perf_counter() - started))
        self._line(PASSED, name, detail, self.steps[-1].seconds)
        return result

    def verdict(self, outcome: EngineOutcome) -> None:
        """Print how an engine was judged, with the rule that it broke, left open, or came nearest to breaking."""
        mark = MARKS[outcome.outcome.value]
        detail = outcome.reason if outcome.verdict is None else deciding_sentence(outcome.verdict)
        self._line(mark, f"verdict {label_of(outcome.cell)}", f"{outcome.outcome.value}: {detail}", None)
        if outcome.verdict is not None:
            for text in filter(None, (outcome.reason, outcome.scope)):
                self.say(f"  {text}")

    def elsewhere(self, cell: Cell, text: str) -> None:
        """Print how an engine that a runner makes is getting on."""
        self._line(ELSEWHERE, label_of(cell), text, None)

    def _line(self, mark: str, name: str, detail: str, seconds: float | None) -> None:
        line = Text(f"{mark} ", style=COLOURS[mark])
        line.append(f"{name:<{STEP_WIDTH}} ", style="default")
        line.append(detail, style="dim" if mark == PASSED else "default")
        if seconds is not None:
            line.append(f"  {seconds:.1f} s", style="default")
        self._console.print(line)

    def _bar(self, name: str) -> Progress:
        columns = (TextColumn(f"  {name:<{STEP_WIDTH}}"), BarColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)

    def engines(self, outcomes: Iterable[EngineOutcome]) -> None:
        """Print the last table, 80 columns wide; every engine that passed is registered by then.

        An engine is its id, a row below it, and the worst rule folded below that: each may be longer than a column.
        """
        self.say()
        self.say(ENGINE_ROW.format("verdict", "p50", "speed-up", "size", "digest", "registered"))
        for outcome in outcomes:
            rule, *cells = map(printable, _row(outcome))
            verdict = f"{MARKS[outcome.outcome.value]} {outcome.outcome.value}"
            self.say(outcome.cell.engine_id)
            self.marked(ENGINE_ROW.format(verdict, *cells, "yes" if outcome.outcome.value == "pass" else "no"))
            for line in textwrap.wrap(rule, CHECK_WIDTH - len(RULE_INDENT), break_on_hyphens=False):
                self.say(f"{RULE_INDENT}{line}")

    def table(self, headings: list[str], rows: list[list[str]]) -> None:
        """Print a plain table."""
        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell[:1], "")) for cell in row))
        self._tables.print(table)

    def marked(self, text: str) -> None:
        """Print a line in the colour of the mark that it starts with, however far it is indented: red for ✕."""
        self._console.print(Text(text, style=COLOURS.get(text.lstrip()[:1], "")))

    def side_by_side(self, headings: list[str], rows: list[list[str]]) -> None:
        """Print a table whose cells are folded to the width of a terminal; elsewhere, each row is one line."""
        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell[:1], "")) for cell in row))
        console = self._console if self._console.is_terminal else self._tables
        console.print(table, soft_wrap=False)

    def remark(self, mark: str, subject: str, text: str) -> None:
        """Print how a subject stands: folded to 80 columns, and further lines below the first one's text."""
        indent = " " * (SUBJECT_WIDTH + 3)
        lines = [
            folded
            for line in printable_lines(text)
            for folded in textwrap.wrap(line, CHECK_WIDTH - len(indent), break_on_hyphens=False) or [""]
        ]
        shown = Text(f"{mark} ", style=COLOURS.get(mark, ""))
        shown.append(f"{subject:<{SUBJECT_WIDTH}} " + f"\n{indent}".join(lines), style="default")
        self._console.print(shown)

    def ask(self, question: str) -> bool:
        """Ask for a yes on the terminal; anything else, the end of input and Ctrl-C too, is a no."""
        try:
            return click.confirm(question, default=False, err=self._console.file is sys.stderr)
        except click.Abort:
            self.say()
            return False

    def error(self, message: str) -> None:
        """Print an error in full."""
        shown = "\n".join(printable_lines(message))
        self._console.print(Text(f"error: {shown}", style="red"))


class QuietReporter(Reporter):
    """Tells of no step but by its bar: for a command whose last report says it all."""

    def say(self, text: str = "") -> None:
        """Print nothing."""

    def step(
        self,
        name: str,
        work: Callable[[Callable[[int, int], None]], Result],
        describe: Callable[[Result], str],
        *,
        tells_why: bool = True,
    ) -> Result:
        """Run `work`; its line is not printed."""
        del describe, tells_why
        with self._bar(name) as progress:
            bar = progress.add_task(name, total=None)
            return work(lambda done, total: progress.update(bar, completed=done, total=total))


def printable_lines(message: object) -> list[str]:
    """The lines of a message, without what would steer a terminal."""
    return [printable(line) for line in str(message).splitlines()]


def short_commit(commit: str) -> str:
    """The first digits of a commit, as people are shown it."""
    return commit[:12]


def short_digest(digest: str) -> str:
    """`sha256:` and the first twelve digits."""
    return digest[:19]


def label_of(cell: Cell) -> str:
    """What tells the engines of one conversion apart in step lines: the precision, after the target if not `cpu`."""
    return cell.precision.value if cell.target == CPU else f"{cell.target} {cell.precision.value}"


def _row(outcome: EngineOutcome) -> tuple[str, ...]:
    p50, speedup, size, digest = "-", "-", "-", "-"
    rule = outcome.reason.partition("\n")[0][:REASON_CHARACTERS] or "-"
    if outcome.verdict is not None:
        rule = f"worst rule: {deciding_words(outcome.verdict)}"
    if outcome.engine is not None:
        size, digest = f"{outcome.engine.plan.size_bytes / 1e6:.1f} MB", short_digest(outcome.engine.plan.digest)
    if outcome.benchmark is not None:
        p50 = f"{outcome.benchmark.headline.p50_ms:.2f} ms"
        ratio = outcome.benchmark.headline_speedup
        speedup = "-" if ratio is None else f"{ratio:.2f}x"
    return rule, p50, speedup, size, digest
