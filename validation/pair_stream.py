"""A stream of pairs: what it says of each rule, and of each value of the rule's slice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log, sqrt

import numpy as np

from validation.betting import Bet
from validation.elements import Numbers
from validation.live_numbers import Answers, Question, Scale, ask, columns_of, is_live, needs_scale, scale_of
from validation.misfits import classes_last
from validation.outputs import OutputSpec
from validation.planned_looks import LOOKS, PlannedLooks
from validation.populations import MOST_COLUMNS
from validation.printing import printable
from validation.rollout_records import JudgedRule, Pairs, rows_of
from validation.rules import Rule
from validation.units import Floats
from validation.verdict import Outcome

SCALE_GROUPS = 300
"""So many of production's first answers give the scale of what is measured in deviations; they are judged after."""
RARE = 0.005
"""A pass does not wait for values of a slice that fewer of the groups have: they may fail all the same."""
MOST_VALUES = 64
"""So many values of a slice are judged, those that came first; a client may send as many as it likes."""
_IN_UNIT: Mapping[str, Callable[[float], float]] = {
    **dict.fromkeys(("mae", "bias", "kl", "js", "ks"), lambda mean: mean),
    **dict.fromkeys(("top1_agreement", "top5_agreement", "agreement", "cosine"), lambda mean: 1 - mean),
    "rmse": lambda mean: sqrt(max(mean, 0.0)),
}
"""What the mean of a rule's numbers is in the metric's own unit; of others it is a share of answers."""
Asked = Sequence[Question]


@dataclass
class _Cell:
    """A rule's questions at one place: all answers, or those with one value of its slice."""

    rule: Rule
    place: str | None
    number: int
    bets: list[Bet] = field(default_factory=list)
    binding: list[Bet] = field(default_factory=list)

    def add(self, questions: Asked, numbers: Sequence[Floats]) -> None:
        if not self.bets:
            self.bets = [Bet(each.low, each.high, each.limit, whole=each.whole) for each in questions]
            self.binding = [bet for bet, each in zip(self.bets, questions, strict=True) if each.binds]
        for bet, values in zip(self.bets, numbers, strict=True):
            bet.add(values)

    def is_broken(self, share: float) -> bool:
        """Whether it is shown to be beyond its limit; later values of a slice have smaller parts of the share."""
        own = share if self.place is None else share / (self.number * (self.number + 1))
        return any(bet.above >= log(len(self.binding) / own) for bet in self.binding)

    def is_kept(self, alpha: float) -> bool:
        return bool(self.bets) and all(bet.below >= log(1 / alpha) for bet in self.bets)

    def more(self, alpha: float) -> int | None:
        found = [bet.more(log(1 / alpha)) for bet in self.bets if bet.below < log(1 / alpha)]
        return None if not found or None in found else max(each for each in found if each is not None)

    @property
    def n(self) -> int:
        return self.bets[0].n if self.bets else 0


class PairStream:
    """Pairs of one kind, and what they say of each rule."""

    def __init__(self, rules: Sequence[Rule], outputs: Mapping[str, OutputSpec], share: float) -> None:
        self._outputs, self._share = outputs, share
        self.live = [rule for rule in rules if is_live(rule, outputs[rule.output])]
        looked = [rule for rule in rules if rule not in self.live]
        self.rules = tuple(rules)
        self._looks: dict[Rule, PlannedLooks] = {}
        for part in ([rule for rule in looked if rule.by is None], [rule for rule in looked if rule.by is not None]):
            if part:
                self._looks |= dict.fromkeys(part, PlannedLooks(part, outputs, share * len(part)))
        self._unanswered = 0
        self._cells: dict[Rule, dict[str | None, _Cell]] = {rule: {} for rule in self.live}
        self._others: dict[Rule, int] = dict.fromkeys(self.live, 0)
        self._scaled = [rule for rule in self.live if needs_scale(rule)]
        self._plain = [rule for rule in self.live if rule not in self._scaled]
        self._waiting: list[Pairs] | None = [] if self._scaled else None
        self._scales: dict[tuple[str, int], Scale] = {}
        self.groups: set[str] = set()
        self.rows = 0

    def first_of_groups(self, pairs: Pairs) -> Pairs:
        """The rows whose group was not seen before, in their order."""
        self.rows += len(pairs.groups)
        kept = []
        for row, group in enumerate(np.asarray(pairs.groups).tolist()):
            if group not in self.groups:
                self.groups.add(group)
                kept.append(row)
        return rows_of(pairs, np.array(kept, dtype=np.int64))

    def add(self, pairs: Pairs) -> None:
        """Take in rows of new groups; rules that need a scale get theirs once it is known."""
        if not len(pairs.groups):
            return
        failed = np.asarray(pairs.failed, dtype=bool)
        self._unanswered += int(failed.sum())
        if self._looks and not failed.all():
            good = rows_of(pairs, np.flatnonzero(~failed))
            for looks in dict.fromkeys(self._looks.values()):
                looks.add(good.reference, good.candidate, good.slices)
        self._take(pairs, self._plain)
        self._add_scaled(pairs)

    def _add_scaled(self, pairs: Pairs) -> None:
        if self._waiting is None:
            self._take(pairs, self._scaled)
            return
        first = np.arange(len(pairs.groups)) < self._more_to_scale
        self._waiting.append(rows_of(pairs, np.flatnonzero(first)))
        if self._more_to_scale:
            return
        start, self._waiting = self._waiting, None
        self._set_scales(start)
        for part in (*start, rows_of(pairs, np.flatnonzero(~first))):
            self._take(part, self._scaled)

    def _set_scales(self, parts: Sequence[Pairs]) -> None:
        for name in {rule.output for rule in self._scaled}:
            columns = [self._answers(name, part.reference, part.reference) for part in parts]
            for column, answers in enumerate(zip(*columns, strict=True)):
                self._scales[name, column] = scale_of(answers)

    def _answers(self, name: str, reference: Mapping[str, Numbers], candidate: Mapping[str, Numbers]) -> list[Answers]:
        spec = self._outputs[name]
        r, c = (classes_last(spec, side[name]) for side in (reference, candidate))
        return columns_of(spec, r, c, MOST_COLUMNS)

    def _take(self, pairs: Pairs, rules: Sequence[Rule]) -> None:
        failed = np.asarray(pairs.failed, dtype=bool)
        if not len(failed):
            return
        outputs = dict.fromkeys(rule.output for rule in rules)
        answers = {name: self._answers(name, pairs.reference, pairs.candidate) for name in outputs}
        for rule in rules:
            self._fill(rule, pairs, *self._numbers(rule, answers[rule.output], failed))

    def _numbers(self, rule: Rule, columns: Sequence[Answers], failed: Numbers) -> tuple[Asked, list[Floats]]:
        """A rule's questions, and their numbers: the worst where there is no answer, or what is no number."""
        questions: list[Question] = []
        numbers: list[Floats] = []
        for column, answers in enumerate(columns):
            asked, make = ask(rule, self._outputs[rule.output], self._scales.get((rule.output, column)))
            with np.errstate(all="ignore"):
                wrong, made = failed | ~np.isfinite(answers.largest), make(answers)
            for question, values in zip(asked, made, strict=True):
                questions.append(question)
                numbers.append(np.where(wrong, question.high, values))
        return questions, numbers

    def _fill(self, rule: Rule, pairs: Pairs, questions: Asked, numbers: Sequence[Floats]) -> None:
        cells = self._cells[rule]
        if rule.by is None:
            cells.setdefault(None, _Cell(rule, None, 1)).add(questions, numbers)
            return
        values = np.asarray(pairs.slices.get(rule.by, np.array([], dtype=str))).astype(str)
        for value in dict.fromkeys(values.tolist()):  # in the order in which they came
            own = values == value
            if value not in cells and len(cells) >= MOST_VALUES:
                self._others[rule] += int(own.sum())
                continue
            cell = cells.setdefault(value, _Cell(rule, value, len(cells) + 1))
            cell.add(questions, [each[own] for each in numbers])

    def judged(self, alpha: float, noise: "PairStream") -> list[JudgedRule]:
        """Every rule, and every value of its slice; `noise` says which cannot be judged."""
        found: list[JudgedRule] = []
        for rule in self.rules:
            own = self._judged_live(rule, alpha, noise) if rule in self.live else self._judged_looks(rule)
            found += own or [_nothing_yet(rule, self._more_before(rule))]
        return found

    def _judged_live(self, rule: Rule, alpha: float, noise: "PairStream") -> list[JudgedRule]:
        cells, others = self._cells[rule].values(), self._others[rule]
        seen = sum(cell.n for cell in cells) + others  # of groups whose rule was judged: each has one value
        found = [_judge_cell(cell, alpha, self._share, noise, cell.n / max(seen, 1)) for cell in cells]
        found += self._all_rare(rule, found, seen)
        if others:
            name = _name(rule, None)
            text = f"{name}: of {rule.by} the first {MOST_VALUES} values are judged; the others are not,"
            text += f" {others:,} groups"
            told = said(f"{name} at other values", Outcome.INCONCLUSIVE, None, rule.limit, others, None, text, "")
            found.append(replace(told, binds=False))
        return found

    def _judged_looks(self, rule: Rule) -> list[JudgedRule]:
        looks, groups = self._looks[rule], len(self.groups)
        lost = f" {self._unanswered:,} groups without an answer are left out: errors counts them."
        found = [
            JudgedRule(
                name=_name(rule, place),
                outcome=outcome,
                value=None,
                limit=rule.limit,
                groups=groups,
                needed_more=looks.more if outcome is Outcome.INCONCLUSIVE else None,
                sentence=sentence + (lost if self._unanswered else ""),
                binds=part >= RARE,
            )
            for place, (outcome, sentence, part) in looks.results(rule).items()
        ]
        return found + self._all_rare(rule, found, groups)

    def _all_rare(self, rule: Rule, found: Sequence[JudgedRule], groups: int) -> list[JudgedRule]:
        """That no value of a slice can show enough, where that is so: a pass must not rest on nothing."""
        if not found or any(one.binds for one in found):
            return []
        text = (
            f"{_name(rule, None)}: no value of {rule.by} has {RARE:.1%} of the groups, so none shows enough for a pass"
        )
        return [said(_name(rule, None), Outcome.INCONCLUSIVE, None, rule.limit, groups, None, text, "")]

    def breaks(self, rule: Rule, place: str | None) -> bool:
        """Whether a rule is shown to be broken there."""
        cell = self._cells.get(rule, {}).get(place)
        return cell is not None and cell.is_broken(self._share)

    def _more_before(self, rule: Rule) -> int:
        """How many groups are missing until anything can be said of a rule."""
        if rule in self._scaled:
            return self._more_to_scale
        return 1 if rule in self.live else LOOKS[0]

    @property
    def _more_to_scale(self) -> int:
        """How many groups the scale still takes."""
        return 0 if self._waiting is None else SCALE_GROUPS - sum(len(each.groups) for each in self._waiting)


def _judge_cell(cell: _Cell, alpha: float, share: float, noise: PairStream, part: float) -> JudgedRule:
    """What is shown at one place, which `part` of the groups have."""
    name = _name(cell.rule, cell.place)
    if noise.breaks(cell.rule, cell.place):
        text = f"{name} cannot be judged: production differs from itself by more than {cell.rule.limit:g}"
        found = said(name, Outcome.INCONCLUSIVE, None, cell.rule.limit, cell.n, None, text, "")
        return replace(found, binds=part >= RARE)
    outcome = Outcome.INCONCLUSIVE
    if cell.is_broken(share):
        outcome = Outcome.FAIL
    elif cell.is_kept(alpha):
        outcome = Outcome.PASS
    worst = max(cell.binding, key=lambda bet: (bet.mean or 0.0) - bet.limit)
    binds, more = part >= RARE, cell.more(alpha) if outcome is Outcome.INCONCLUSIVE else None
    more = ceil(more / part) if more is not None and binds else None
    mean, limit = worst.mean or 0.0, cell.rule.limit
    if cell.rule.metric in _IN_UNIT:
        value = _IN_UNIT[cell.rule.metric](mean)
        text, allowed = f"{name} is {value:.3g} on {cell.n:,} groups", f"{limit:g}"
    else:
        value = mean
        text, allowed = f"{name}: {mean:.2%} of {cell.n:,} groups are beyond {limit:g}", f"{worst.limit:.2%} of them"
    if not binds and outcome is Outcome.INCONCLUSIVE:
        allowed += f", and too rare to wait for: {part:.2%} of all"
    return replace(said(name, outcome, value, limit, cell.n, more, text, allowed), binds=binds)


def said(
    name: str, outcome: Outcome, value: float | None, limit: float, n: int, more: int | None, text: str, allowed: str
) -> JudgedRule:
    """A rule's outcome in a sentence: `text`, what that shows of what is `allowed`, and how many more would decide."""
    words = {
        Outcome.PASS: f": shown to be within {allowed}",
        Outcome.FAIL: f": shown to be beyond {allowed}",
        Outcome.INCONCLUSIVE: f": not decided against {allowed}",
    }
    groups = "1 group" if more == 1 else f"{more:,} groups" if more is not None else ""
    asked = f"; about {groups} more of all traffic would decide" if groups else ""
    sentence = printable(f"{text}{words[outcome] if allowed else ''}{asked}.")
    return JudgedRule(
        name=name, outcome=outcome, value=value, limit=limit, groups=n, needed_more=more, sentence=sentence
    )


def _nothing_yet(rule: Rule, more: int) -> JudgedRule:
    name = _name(rule, None)
    lacking = "too few pairs yet" if rule.by is None else f"too few pairs with a slice {rule.by} yet"
    return said(name, Outcome.INCONCLUSIVE, None, rule.limit, 0, more or None, f"{name}: {lacking}", "")


def _name(rule: Rule, place: str | None) -> str:
    return f"{rule.output} {rule.metric}" + ("" if place is None else f" at {rule.by}={place}")
