"""Is the gate as sure as it says? Simulates engines exactly at a limit, and at half of it, and counts verdicts.

An engine's true metrics are those of 4 million samples. At the limit: the limit is the true metric, and more than
`1 - confidence` of draws must not pass. At half the limit: the limit is twice as far from the ideal; a pilot of
`min_samples` says how many samples it needs, and as many are drawn afresh.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock
from zlib import crc32

import numpy as np
from gate.engines import KINDS
from gate.judging import check_weights, judge, loss_of, quick_readings, rule_at, twice
from gate.tails import TAILS

from validation.metrics import Reading
from validation.rules import DEFAULT_MIN_SAMPLES, Policy, Rule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.random import Generator

ALL = {**KINDS, **TAILS}
SIZES = (DEFAULT_MIN_SAMPLES, 1000, 3000)
DRAWS = 1000
CORES = 2
_TRUTH_PARTS = 4
_TRUTH_SAMPLES = {"logits": 1 << 18, "classes": 1 << 18, "tensors": 1 << 18, "clusters of scores": 1 << 17}
_MOST_TRUE = 1 << 20
_SHARE = 125
"""Draws of one job: so many that both cores have work to the end."""
_MOST = 20_000
"""Samples beyond which an engine at half a limit is not drawn: the number that the gate asks for is reported."""
_HALF = 4
_SLOW = {"retrieval_overlap@10": 5}
"""One draw in so many, of what is slow to read."""

Limits = dict[tuple[str, str, str], float]
"""The true metric by kind, engine and metric."""
Readers = list[dict[str, Reading]]
Drawn = dict[tuple[str, str, int, str], Readers]
"""Readings by kind, engine, samples of a draw, and what they are for."""


@dataclass(frozen=True)
class AtLimit:
    """Verdicts on draws of `n` samples of an engine whose true metric is the limit."""

    kind: str
    engine: str
    metric: str
    n: int
    draws: int
    passed: int
    failed: int

    @property
    def passes(self) -> float:
        return self.passed / self.draws


@dataclass(frozen=True)
class AtHalf:
    """Verdicts on an engine at half a limit: `draws` pilots, of which some passed and some failed, and others asked for
    `needed` samples (median, None where most could not tell) and then `passed_then` of `drawn`. Of fresh draws of as
    many samples as a pilot that decided, `passed_afresh` of `afresh`.
    """

    kind: str
    engine: str
    metric: str
    draws: int
    passed: int
    failed: int
    needed: float | None
    drawn: int
    passed_then: int
    afresh: int
    passed_afresh: int

    @property
    def passes(self) -> float | None:
        """Share that passes by the pilot, or on as many samples as it asked for."""
        undecided = self.draws - self.passed - self.failed
        if not undecided:
            return self.passed / self.draws
        return (self.passed + undecided * self.passed_then / self.drawn) / self.draws if self.drawn else None

    @property
    def passes_as_told(self) -> float | None:
        """Of those whose pilot asked for more samples, the share that passes on as many."""
        return self.passed_then / self.drawn if self.drawn else None

    @property
    def passes_afresh(self) -> float | None:
        """Share that passes when all is drawn again, after pilots that decided too."""
        drawn = self.drawn + self.afresh
        return (self.passed_then + self.passed_afresh) / drawn if drawn == self.draws else None


def _generator(*names: object) -> Generator:
    return np.random.default_rng(crc32("/".join(map(str, names)).encode()))


def _judged(rule: Rule, reading: Reading) -> tuple[Outcome, int | None]:
    """Outcome, and how many samples would decide it: as many as there are, where it is decided."""
    (result,) = judge([(rule, reading)], Policy(rules=(rule,)))
    return result.outcome, result.needed_at_half if result.outcome is Outcome.INCONCLUSIVE else reading.n


# Jobs: each runs in a process of its own, and says all it needs to know in its arguments.


def truth(kind: str, engine: str, part: int) -> dict[str, float]:
    """The metrics of a million samples; of embeddings, without their neighbours, which depend on how many there are."""
    generator = _generator("truth", kind, engine, part)
    if ALL[kind].reference is KINDS["embedding"].reference:
        return _embedding_truth(kind, engine, generator)
    accumulator = ALL[kind].measured(engine, generator, _TRUTH_SAMPLES.get(kind, _MOST_TRUE))
    readings = accumulator.readings(replace(ALL[kind].plan, resamples=1), ALL[kind].metrics)
    return {metric: float(readings[metric].value or 0.0) for metric in ALL[kind].metrics}


def _embedding_truth(kind: str, engine: str, generator: Generator) -> dict[str, float]:
    reference = ALL[kind].reference(generator, 1 << 18)
    candidate = ALL[kind].engines[engine](generator, reference)
    r, c = (side.astype(np.float32).astype(np.float64) for side in (reference, candidate))
    cosines = (r * c).sum(axis=1) / np.sqrt((r * r).sum(axis=1) * (c * c).sum(axis=1))
    return {"cosine": float(cosines.mean()), "cosine_p1": float(np.quantile(cosines, 0.01))}


def draw(kind: str, engine: str, n: int, what: str, draws: range, only: str | None = None) -> Readers:
    """The readings of so many draws of n samples; every fifth draw alone has those that are slow to read."""
    its, found = ALL[kind], []
    for number in draws:
        generator = _generator(what, kind, engine, n, only, number)
        wanted = (only,) if only else [name for name in its.metrics if number % _SLOW.get(name, 1) == 0]
        readings = quick_readings(its.measured(engine, generator, n), its.plan, wanted)
        found.append({name: replace(readings[name], n=readings[name].n // its.samples_each) for name in wanted})
    return found


class Calibration:
    """Draws, in two processes, what the tables need."""

    def __init__(self, pool: ProcessPoolExecutor, kinds: Iterable[str], draws: int) -> None:
        self._pool, self._kinds, self._draws = pool, tuple(kinds), draws
        self._limits: Limits = {}

    def run(self) -> Iterator[list[AtLimit] | list[AtHalf]]:
        """Cells of engines at their limit, and then of engines at half of it."""
        self._find_limits()
        drawn = self._draw_all()
        yield [cell for n in SIZES for cell in self._at_limit(drawn, n)]
        yield self._at_half(drawn)

    def _engines(self) -> Iterator[tuple[str, str]]:
        return ((kind, engine) for kind in self._kinds for engine in ALL[kind].engines)

    def _find_limits(self) -> None:
        parts = {
            (kind, engine): [self._pool.submit(truth, kind, engine, part) for part in range(_TRUTH_PARTS)]
            for kind, engine in self._engines()
        }
        for (kind, engine), futures in parts.items():
            for metric in futures[0].result():
                values = np.array([future.result()[metric] for future in futures])
                off = 5 * float(values.std(ddof=1)) / len(values) ** 0.5
                # A true loss of 0 (the bias of symmetric noise) makes no limit, and a quantile at a jump no number.
                if off < loss_of(metric, float(values.mean())):
                    self._limits[kind, engine, metric] = float(values.mean())

    def _draw_all(self) -> Drawn:
        """Draws of every size, and fresh ones of the smallest."""
        jobs = defaultdict(list)
        plan = [(kind, engine, n, "limit") for kind, engine in self._engines() for n in SIZES]
        plan += [(kind, engine, SIZES[0], "fresh") for kind, engine in self._engines()]
        for cell in sorted(plan, key=lambda each: -each[2]):
            for part in _parts(self._draws):
                jobs[cell].append(self._pool.submit(draw, *cell, part))
        return {cell: [readings for job in found for readings in job.result()] for cell, found in jobs.items()}

    def _limited(self, drawn: Drawn, n: int) -> Iterator[tuple[str, str, str, float]]:
        """Kind, engine, metric and its true value; of neighbours, which depend on n, the mean over draws."""
        for kind, engine in self._engines():
            for metric in ALL[kind].metrics:
                if metric in _SLOW:
                    found = _of(metric, drawn[kind, engine, n, "limit"])
                    yield kind, engine, metric, float(np.mean([each.value for each in found]))
                elif (kind, engine, metric) in self._limits:
                    yield kind, engine, metric, self._limits[kind, engine, metric]

    def _at_limit(self, drawn: Drawn, n: int) -> Iterator[AtLimit]:
        for kind, engine, metric, value in self._limited(drawn, n):
            rule = rule_at(kind, metric, value)
            if rule is not None:
                outcomes = [_judged(rule, each)[0] for each in _of(metric, drawn[kind, engine, n, "limit"])]
                yield AtLimit(kind, engine, metric, n, len(outcomes), *_counts(outcomes))

    def _at_half(self, drawn: Drawn) -> list[AtHalf]:
        waiting = []
        for kind, engine, metric, value in self._limited(drawn, SIZES[0]):
            rule = rule_at(kind, metric, twice(metric, value))
            if rule is None:
                continue
            pilots, fresh = (
                _of(metric, drawn[kind, engine, SIZES[0], what])[:: 1 if metric in _SLOW else _HALF]
                for what in ("limit", "fresh")
            )
            judged = [_judged(rule, each) for each in pilots]
            again = [_judged(rule, each)[0] for each, (found, _) in zip(fresh, judged, strict=True) if _decided(found)]
            asked = [needed for found, needed in judged if not _decided(found)]
            waiting.append(
                (rule, engine, [found for found, _ in judged], asked, self._drawn_again(rule, engine, asked), again)
            )
        return [_half(*each) for each in waiting]

    def _drawn_again(self, rule: Rule, engine: str, asked: list[int | None]) -> list[Future[list[Outcome]]]:
        """The outcomes, once they are there, on as many samples as each pilot asked for."""
        if not asked or median(n or np.inf for n in asked) > _MOST:
            return []
        sizes = sorted(min(n or 0, _MOST) for n in asked)
        return [
            self._pool.submit(outcomes, rule, engine, sizes[start : start + _SHARE])
            for start in range(0, len(sizes), _SHARE)
        ]


def _half(
    rule: Rule,
    engine: str,
    pilots: list[Outcome],
    asked: list[int | None],
    jobs: list[Future[list[Outcome]]],
    again: list[Outcome],
) -> AtHalf:
    then = [outcome for job in jobs for outcome in job.result()]
    needed = median(n or np.inf for n in asked) if asked else SIZES[0]
    return AtHalf(
        kind=rule.output,
        engine=engine,
        metric=rule.metric,
        draws=len(pilots),
        passed=pilots.count(Outcome.PASS),
        failed=pilots.count(Outcome.FAIL),
        needed=needed if np.isfinite(needed) else None,
        drawn=len(then),
        passed_then=then.count(Outcome.PASS),
        afresh=len(again),
        passed_afresh=again.count(Outcome.PASS),
    )


def outcomes(rule: Rule, engine: str, sizes: list[int]) -> list[Outcome]:
    """Outcomes of a draw of each of these sizes; of none, where the gate could not tell how many it needs."""
    found = []
    for number, n in enumerate(sizes):
        if n == 0:
            found.append(Outcome.INCONCLUSIVE)
            continue
        readings = draw(rule.output, engine, n, "needed", range(number, number + 1), rule.metric)
        found.append(_judged(rule, readings[0][rule.metric])[0])
    return found


def _of(metric: str, readings: Readers) -> list[Reading]:
    return [each[metric] for each in readings if metric in each]


def _decided(outcome: Outcome) -> bool:
    return outcome is not Outcome.INCONCLUSIVE


def _counts(found: list[Outcome]) -> tuple[int, int]:
    return found.count(Outcome.PASS), found.count(Outcome.FAIL)


def _parts(draws: int) -> list[range]:
    return [range(start, min(start + _SHARE, draws)) for start in range(0, draws, _SHARE)]


def calibrate(draws: int = DRAWS, kinds: Iterable[str] = tuple(KINDS)) -> Iterator[list[AtLimit] | list[AtHalf]]:
    """Cells of engines at their limit and at half of it; the same seeds in every run."""
    check_weights()
    with (
        mock.patch.dict(os.environ, dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")),
        ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool,
    ):
        yield from Calibration(pool, kinds, draws).run()
