"""What the gate's measurements say, as rows of `make bench` and as the tables of README."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gate.calibration import DRAWS, SIZES, AtHalf, AtLimit, calibrate
from gate.engines import KINDS
from gate.naive import naive, table
from gate.size import MIB, PAIRS, SHARDS, measure
from gate.tails import TAILS
from rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

MOST_PASSING, FEWEST_PASSING = 0.06, 0.9
TAIL_DRAWS = 400
_NOTHING = "-"


def calibration(_scratch: Path, draws: int = DRAWS) -> list[Row]:
    """How often the gate passes engines at a limit and at half of it."""
    at_limit, at_half = calibrate(draws)
    print("\n".join([*limit_tables(at_limit), *half_tables(at_half), ""]))
    return [*_limit_rows(at_limit), *_half_rows(at_half)]


def tails(_scratch: Path, draws: int = TAIL_DRAWS) -> list[Row]:
    """The same of engines with rare, heavy-tailed and clustered errors: the table of docs/statistics.md."""
    at_limit, at_half = calibrate(draws, tuple(TAILS))
    print("\n".join([*long_tables(at_limit, at_half), ""]))
    return [*_limit_rows(at_limit), *_half_rows(at_half)]


def naive_pvalue(_scratch: Path) -> list[Row]:
    """What the two-sample K-S p-value makes of shifts and of a permutation, and what the rules on D and r do."""
    rows = naive()
    print("\n".join([*table(rows), ""]))
    return [
        Row(
            f"{row.what}, n = {row.n:,}: K-S p-value, D, Pearson pass",
            ", ".join(f"{100 * shares[0]:.0f} %" for shares in row.shares),
            "",
            None,
        )
        for row in rows
    ]


def size(_scratch: Path) -> list[Row]:
    """Time and memory of a million pairs, and memory of a hundred shards, on one core."""
    rows = []
    for case, what in (("pairs", "default rules"), ("sliced", "default rules, and by a slice of 6 values")):
        found = measure(case)
        kept = found.seconds <= 30 and found.peak <= 1e9
        measured = f"{found.seconds:.1f} s, {found.peak / MIB:.0f} MiB above start"
        rows.append(Row(f"{PAIRS:,} pairs of scores, {what}", measured, "≤ 30 s, ≤ 1 GB", kept))
    for case, what in (
        ("logits", "logits [n, 1000]"),
        ("tensors", "tensors [n, 80, 300]"),
        ("scores", "scores [n]"),
    ):
        found = measure(case)
        measured = (
            f"{found.peak / MIB:.0f} MiB above start; {found.seconds - found.making:.0f} s, and {found.making:.0f} s to"
            " make the data"
        )
        rows.append(Row(f"{SHARDS} shards of 50 MB of {what}", measured, "≤ 500 MB", found.peak <= 500e6))
    return rows


def limit_tables(cells: Sequence[AtLimit]) -> list[str]:
    """Per cent of draws that pass / fail, at each number of samples, of engines exactly at the limit."""

    def shown(found: Iterable[AtLimit]) -> str:
        return ", ".join(f"{100 * cell.passes:.1f} / {100 * cell.failed / cell.draws:.1f}" for cell in found)

    sizes = ", ".join(f"{n:,}" for n in SIZES)
    title = f"At the limit: per cent of draws that pass / fail on {sizes} samples."
    return ["", title, *_tables(cells, shown)]


def half_tables(cells: Sequence[AtHalf]) -> list[str]:
    """Samples that pilots ask for, and per cent of draws that pass, of engines at half a limit."""

    def shown(found: Iterable[AtHalf]) -> str:
        return "".join(_half(cell) for cell in found)

    title = (
        f"At half the limit: per cent of pilots of {SIZES[0]} that pass; → median samples that the others ask for: per"
        " cent that pass on as many."
    )
    return ["", title, *_tables(cells, shown)]


def long_tables(at_limit: Sequence[AtLimit], at_half: Sequence[AtHalf]) -> Iterable[str]:
    """A row an engine and metric: per cent that pass at the limit, by n, and at half of it."""
    halves = {(cell.kind, cell.engine, cell.metric): cell for cell in at_half}
    for kind in dict.fromkeys(cell.kind for cell in at_limit):
        yield from ("", f"**{kind}**", "", f"| metric | engine | {' | '.join(f'{n:,}' for n in SIZES)} | at half |")
        yield "|---" * (len(SIZES) + 3) + "|"
        cells = [cell for cell in at_limit if cell.kind == kind]
        for metric, engine in dict.fromkeys((cell.metric, cell.engine) for cell in cells):
            found = {c.n: f"{100 * c.passes:.1f}" for c in cells if (c.metric, c.engine) == (metric, engine)}
            half = halves.get((kind, engine, metric))
            shown = [found.get(n, _NOTHING) for n in SIZES] + [_half(half) if half else _NOTHING]
            yield f"| `{metric}` | {engine} | {' | '.join(shown)} |"


def _half(cell: AtHalf) -> str:
    pilots = f"{100 * cell.passed / cell.draws:.0f}"
    if cell.passed + cell.failed == cell.draws:
        return pilots
    asked = "none" if cell.needed is None else f"{cell.needed:,.0f}"
    then = "not drawn" if cell.passes_as_told is None else f"{100 * cell.passes_as_told:.0f}"
    return f"{pilots} → {asked}: {then}"


def _tables(cells: Sequence[AtLimit | AtHalf], shown: Callable[..., str]) -> Iterable[str]:
    for kind, its in KINDS.items():
        if not any(cell.kind == kind for cell in cells):
            continue
        yield ""
        yield f"| {kind} | {' | '.join(its.engines)} |"
        yield "|---" * (len(its.engines) + 1) + "|"
        for metric in its.metrics:
            found = [[c for c in cells if (c.kind, c.metric, c.engine) == (kind, metric, e)] for e in its.engines]
            yield f"| {metric} | {' | '.join(shown(each) if each else _NOTHING for each in found)} |"


def _limit_rows(cells: Sequence[AtLimit]) -> list[Row]:
    rows = []
    for kind, metric, n in dict.fromkeys((cell.kind, cell.metric, cell.n) for cell in cells):
        found = [cell for cell in cells if (cell.kind, cell.metric, cell.n) == (kind, metric, n)]
        worst = max(found, key=lambda cell: cell.passes)
        measured = f"{100 * worst.passes:.1f} % ({worst.engine})"
        what = f"{kind} {metric} at its limit, n = {n:,}: passes, of {worst.draws:,} draws"
        rows.append(Row(what, measured, "≤ 6 %", worst.passes <= MOST_PASSING))
    return rows


def _half_rows(cells: Sequence[AtHalf]) -> list[Row]:
    rows = []
    for kind, metric in dict.fromkeys((cell.kind, cell.metric) for cell in cells):
        found = [c for c in cells if (c.kind, c.metric) == (kind, metric) and c.passes is not None]
        if found:
            worst = min(found, key=_passes)
            asked = "no number of" if worst.needed is None else f"{worst.needed:,.0f}"
            measured = f"{100 * _passes(worst):.0f} % with {asked} samples ({worst.engine})"
            what = f"{kind} {metric} at half its limit: passes as the gate says"
            rows.append(Row(what, measured, "≥ 90 %", _passes(worst) >= FEWEST_PASSING))
    return rows


def _passes(cell: AtHalf) -> float:
    return 0.0 if cell.passes is None else cell.passes


def with_draws(draws: int) -> Callable[[Path], list[Row]]:
    """`calibration` with another number of draws."""
    return partial(calibration, draws=draws)
