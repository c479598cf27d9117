"""What changed between a registered engine and the one that was made of it: by rule and slice, and in speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.declared import Frozen
from tasks.rule_view import JudgedRule, judged_rules
from tasks.timings import Latency, RaceAt
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.timings import Benchmark, EngineRace
    from validation.verdict import Verdict

Direction = Literal["better", "worse", "same", "new", "dropped"]
Place = tuple[str | None, str, int | None, str | None, str | None]


class RuleChange(Frozen):
    """A rule on one slice, as it was judged before and as it is now; its limit is today's.

    `direction` says where the value went as seen from the metric's ideal; a rule is `new` or `dropped` where only one
    of the two engines was judged by it.
    """

    name: str
    output: str | None
    metric: str
    slice: str | None
    group: str | None
    before: float | None
    after: float | None
    limit: str
    outcome_before: Outcome | None
    outcome: Outcome | None
    direction: Direction


class SpeedChange(Frozen):
    """Latencies at the model's `opt`, in milliseconds, and how much faster the new engine is.

    `in_turns` says that both were timed here, in turns, so that `speedup` has bounds, each at 98 %. Otherwise `before`
    is what the old manifest says, of its own host.
    """

    before: Latency
    after: Latency
    speedup: float
    low: float | None = None
    high: float | None = None
    in_turns: bool
    batches: tuple[RaceAt, ...] = ()

    @property
    def direction(self) -> Direction | None:
        """Whether the new engine is faster (`better`) or slower, as far as the bounds say; None without bounds."""
        if self.low is None or self.high is None:
            return None
        if self.low > 1:
            return "better"
        return "worse" if self.high < 1 else "same"


def rule_changes(before: Verdict, after: Verdict) -> tuple[RuleChange, ...]:
    """Every rule of either verdict, the worst of the new one first."""
    old = {_place(rule): rule for rule in judged_rules(before)}
    new = {_place(rule): rule for rule in judged_rules(after)}
    return tuple(_change(old.get(place), new.get(place)) for place in {**new, **old})


def speed_change(before: Benchmark, after: Benchmark, race: EngineRace | None) -> SpeedChange:
    """How the new engine compares in speed: by the race of both where there was one, else by their benchmarks."""
    if race is None:
        old, new = before.headline, after.headline
        return SpeedChange(before=old, after=new, speedup=old.p50_ms / new.p50_ms, in_turns=False)
    at = race.headline
    return SpeedChange(
        before=at.before,
        after=at.after,
        speedup=at.speedup,
        low=at.low,
        high=at.high,
        in_turns=True,
        batches=race.batches,
    )


def _place(rule: JudgedRule) -> Place:
    return rule.output, rule.metric, rule.column, rule.slice, rule.group


def _change(old: JudgedRule | None, new: JudgedRule | None) -> RuleChange:
    shown = new or old
    assert shown is not None  # noqa: S101 - a place is that of a rule
    return RuleChange(
        name=shown.name,
        output=shown.output,
        metric=shown.metric,
        slice=shown.slice,
        group=shown.group,
        before=None if old is None else old.judged_value,
        after=None if new is None else new.judged_value,
        limit=shown.limit_in_words,
        outcome_before=None if old is None else old.outcome,
        outcome=None if new is None else new.outcome,
        direction=_direction(old, new),
    )


def _direction(old: JudgedRule | None, new: JudgedRule | None) -> Direction:
    if old is None or new is None:
        return "new" if old is None else "dropped"
    before, after = old.judged_value, new.judged_value
    if before is None or after is None or before == after:
        return "same" if before == after else ("worse" if after is None else "better")
    used_before, used_after = new.used(before), new.used(after)
    if used_before == used_after:
        return "same"
    return "better" if used_after < used_before else "worse"
