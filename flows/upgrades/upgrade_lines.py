"""What people are shown of an upgrade, in 80 columns: each engine before and after, and which may follow."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from flows.console import CHECK_WIDTH, FAILED, MARKS, PASSED
from tasks.errors import printable
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flows.console import Reporter
    from flows.upgrades.upgrade_report import Toolchain, UpgradedEngine, UpgradeReport
    from tasks.release.changes import RuleChange, SpeedChange

INDENT = "  "
NAME_WIDTH = 28
VALUE_WIDTH = 12
NOTHING = "-"
STATES = {
    "made": "made again",
    "made before": "made again before",
    "nothing to do": "nothing to do",
    "skipped": "left out",
}
SPEEDS = {"better": ", faster", "worse": ", slower", "same": ", no difference shown", None: ""}


def show_upgrade(reporter: Reporter, report: UpgradeReport) -> None:
    """Print every engine of an upgrade, and at the end which may follow."""
    for engine in report.engines:
        reporter.say()
        for line in engine_lines(engine):
            reporter.marked(line)
    reporter.say()
    following = [engine for engine in report.engines if engine.may_follow]
    reporter.marked(f"{len(following)} of {len(report.engines)} may follow; no channel was moved")
    for engine in following:
        for line in _promote_lines(engine):
            reporter.say(line)


def engine_lines(engine: UpgradedEngine) -> Iterator[str]:
    """The lines of one engine, a mark at the beginning of those to look at."""
    yield f"{engine.model} {engine.target}, {engine.channel}: {STATES[engine.state]}"
    yield from _toolchains(engine)
    if engine.rules:
        yield ""
        yield from _rows(engine)
        yield ""
    if engine.plan_after is not None and engine.plan_after == engine.plan_before:
        yield from _folded("", "the engine is the same, byte for byte")
    for note in engine.notes:
        yield from _folded("! ", note)
    yield from _folded(*_conclusion(engine))


def _toolchains(engine: UpgradedEngine) -> Iterator[str]:
    for word, engine_id, toolchain in (
        ("now", engine.engine_id, engine.before),
        ("here", engine.upgraded, engine.after),
    ):
        if engine_id is not None:
            yield f"{INDENT}{word:<5} {engine_id}"
        if toolchain is not None:
            yield from _folded("      ", printable(_toolchain_words(toolchain)))
    if engine.before is not None and engine.after is not None:
        changed = _changed_options(engine.before, engine.after)
        if changed:
            yield from _folded("      ", f"options: {changed}")


def _toolchain_words(toolchain: Toolchain) -> str:
    """`tensorrt 8.6.0, NVIDIA H200, SM 9.0, driver 550.54, CUDA 12.4`."""
    backend = toolchain.backend
    more = {"SM": backend.compute_capability, "driver": backend.driver, "CUDA": backend.cuda, "MIG": backend.mig}
    parts = [f"{backend.name} {backend.version}", backend.device]
    return ", ".join(parts + [f"{name} {value}" for name, value in more.items() if value is not None])


def _changed_options(before: Toolchain, after: Toolchain) -> str:
    """`optimization_level 3 → 5`."""
    names = sorted({*before.options, *after.options})
    sides = [(name, before.options.get(name, NOTHING), after.options.get(name, NOTHING)) for name in names]
    return ", ".join(f"{name} {old} → {new}" for name, old, new in sides if old != new)


def _rows(engine: UpgradedEngine) -> Iterator[str]:
    yield _row("", "rule", ("now", "here", "limit", ""))
    for rule in engine.rules:
        yield from _rule_rows(rule)
    if engine.speed is not None:
        yield from _speed_rows(engine.speed)


def _rule_rows(rule: RuleChange) -> Iterator[str]:
    mark = "" if rule.outcome in {None, Outcome.PASS} else MARKS[rule.outcome.value]
    cells = (_number(rule.before), _number(rule.after), rule.limit, rule.direction)
    if len(rule.name) <= NAME_WIDTH:
        yield _row(mark, rule.name, cells)
        return
    yield from _folded(f"{mark:<1} ", rule.name, indent="")
    yield _row("", "", cells)


def _speed_rows(speed: SpeedChange) -> Iterator[str]:
    before, after = speed.before, speed.after
    yield _row("", f"p50 at batch {after.batch}", (f"{before.p50_ms:.4g} ms", f"{after.p50_ms:.4g} ms", "", ""))
    yield _row("", "p99", (f"{before.p99_ms:.4g} ms", f"{after.p99_ms:.4g} ms", "", ""))
    yield _row("", "throughput", (f"{before.throughput_per_s:,.0f}/s", f"{after.throughput_per_s:,.0f}/s", "", ""))
    bounds = "" if speed.low is None or speed.high is None else f" [{speed.low:.2f}, {speed.high:.2f}]"
    how = "both timed here, in turns" if speed.in_turns else "each timed where and when it was made, not in turns"
    mark = "? " if speed.direction == "worse" else ""
    yield f"{INDENT}{mark}{speed.speedup:.2f}x as fast{bounds}{SPEEDS[speed.direction]}: {how}"


def _row(mark: str, name: str, cells: Sequence[str]) -> str:
    now, here, limit, direction = cells
    row = (
        f"{mark:<1} {name:<{NAME_WIDTH}} {now:>{VALUE_WIDTH}} {here:>{VALUE_WIDTH}}  {limit:<{VALUE_WIDTH}} {direction}"
    )
    return row.rstrip()


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.5g}"


def _conclusion(engine: UpgradedEngine) -> tuple[str, str]:
    if engine.state == "skipped":
        return f"{FAILED} ", engine.reason
    if engine.verdict is None:
        return "  ", engine.reason
    if engine.may_follow:
        return f"{PASSED} ", f"may follow: pass, {engine.reason}"
    return f"{MARKS[engine.verdict.value]} ", f"may not follow: {engine.verdict.value}, {engine.reason}"


def _promote_lines(engine: UpgradedEngine) -> Iterator[str]:
    """The command, over two lines that a shell takes as one where it is too long."""
    command = f"{INDENT}{engine.promote}"
    if len(command) <= CHECK_WIDTH:
        yield command
        return
    head, option, rest = command.partition(" --engine ")
    yield f"{head} \\"
    yield f"{INDENT}   {option}{rest}"


def _folded(mark: str, text: str, *, indent: str = INDENT) -> list[str]:
    """Text folded to 80 columns, after a mark."""
    beside = " " * len(mark)
    lines = [
        line
        for part in text.splitlines()
        for line in textwrap.wrap(printable(part), CHECK_WIDTH - len(indent + mark), break_on_hyphens=False)
    ]
    return [f"{indent}{beside if number else mark}{line}" for number, line in enumerate(lines)]
