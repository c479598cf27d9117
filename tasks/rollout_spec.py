"""`rollout.yaml`: how a canary comes to all of production's traffic. Without a file, its defaults hold."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from tasks.declared import ArrayName, Declared
from tasks.sampling_spec import ParameterName
from validation.policy import Rule
from validation.rules import find_problem, finite_number, shown

SHADOW: Final = "shadow"
ALL = 100.0
"""Percent of the traffic, at which a rollout ends."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,6})([smhd])")
Percent = Annotated[float, Field(gt=0, le=ALL)]
Person = Annotated[str, Field(min_length=1, max_length=200)]


class RolloutRule(Declared):
    """A limit on how far the canary's outputs may be from production's, as one of policy.yaml."""

    of_later = ("max", "min", "within", "by")

    output: ArrayName
    metric: str
    max: float | None = None
    min: float | None = None
    within: float | None = None
    by: str | None = None

    @model_validator(mode="after")
    def _is_a_rule(self) -> RolloutRule:
        problem = find_problem(self.metric, {"max": self.max, "min": self.min, "within": self.within})
        if problem is not None:
            raise ValueError(problem)
        return self

    @classmethod
    def of(cls, rule: Rule) -> RolloutRule:
        """The same limit as a policy's."""
        return cls(output=rule.output, metric=rule.metric, max=rule.max, min=rule.min, within=rule.within, by=rule.by)

    def as_rule(self) -> Rule:
        """The same limit in the words of the validation room."""
        return Rule(output=self.output, metric=self.metric, max=self.max, min=self.min, within=self.within, by=self.by)


class Latencies(Declared):
    """How many times production's latency the canary's may be, at most, at a percentile; None: not limited."""

    p50: Annotated[float, Field(gt=0)] | None = 1.2
    p99: Annotated[float, Field(gt=0)] | None = 1.2

    @property
    def limits(self) -> dict[str, float]:
        """Those that are limited, by percentile."""
        return {name: limit for name, limit in (("p50", self.p50), ("p99", self.p99)) if limit is not None}


class Horizon(Declared):
    """After how many requests, of both arms, or hours a rollout has to be decided; a `resume` begins anew."""

    requests: Annotated[int, Field(ge=1)] = 200_000
    hours: Annotated[float, Field(gt=0)] = 72.0


class RolloutPlan(Declared):
    """What a rollout does, step by step; each key may be left out.

    Each of `steps` is `shadow`, in which the canary answers nobody, or percent of the traffic, and lasts at least
    `soak`. `mirror` is the share of production's requests that the canary answers too, unseen, and `noise` the share
    that production answers twice. `key` names the parameter or forwarded header that tells users apart; without it each
    request counts alone. `rules` are as in policy.yaml; None stands for the canary's own policy, less what needs
    labels. `latency` limits the canary's over production's, `errors` its share of errors and time-outs less
    production's. `undecided` is what happens at the horizon, and `newer` what a newer engine in the channel `canary`
    does. Who may let the rollout enter a step stands in `approve`, by the step.
    """

    steps: Annotated[tuple[Literal["shadow"] | Percent, ...], Field(strict=False)] = (
        SHADOW, 1.0, 5.0, 25.0, ALL,
    )  # fmt: skip
    soak: str = "10m"
    mirror: Annotated[float, Field(gt=0, le=1)] = 0.05
    noise: Annotated[float, Field(ge=0, le=1)] = 0.01
    key: ParameterName | None = None
    slices: Annotated[tuple[ParameterName, ...], Field(strict=False)] = ()
    rules: Annotated[tuple[RolloutRule, ...], Field(strict=False)] | None = None
    latency: Latencies = Latencies()
    errors: Annotated[float, Field(ge=0, lt=1)] = 0.002
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    horizon: Horizon = Horizon()
    undecided: Literal["hold", "rollback"] = "hold"
    approve: dict[str, Annotated[tuple[Person, ...], Field(strict=False, min_length=1)]] = Field(default_factory=dict)
    newer: Literal["wait", "supersede"] = "wait"

    @field_validator("steps", mode="before")
    @classmethod
    def _are_steps(cls, steps: Any) -> Any:
        if not isinstance(steps, (list, tuple)) or not steps:
            raise ValueError("are none; list at least one, as [shadow, 1, 5, 25, 100]")
        for step in steps:
            number = finite_number(step)
            if step != SHADOW and (number is None or not 0 < number <= ALL):
                raise ValueError(f"{shown(step)} is no step; write shadow, or a percent above 0 and up to 100")
        return steps

    @field_validator("steps")
    @classmethod
    def _rise_to_all(cls, steps: tuple[str | float, ...]) -> tuple[str | float, ...]:
        percents = [0.0 if step == SHADOW else float(step) for step in steps]
        if percents != sorted(set(percents)):
            raise ValueError("do not rise; write each step once, shadow first")
        if percents[-1] != ALL:
            raise ValueError(f"end at {step_name(steps[-1])}, where nothing would ever be promoted; add 100")
        return steps

    @field_validator("soak", mode="before")
    @classmethod
    def _is_a_duration(cls, soak: Any) -> Any:
        if not isinstance(soak, str) or not _DURATION.fullmatch(soak):
            raise ValueError(f"{shown(soak)} is no time; write a number and s, m, h or d, like 10m")
        return soak

    @field_validator("rules")
    @classmethod
    def _limit_something(cls, rules: tuple[RolloutRule, ...] | None) -> tuple[RolloutRule, ...] | None:
        if rules == ():
            raise ValueError("there are none, so anything would pass; list a rule, or leave the key out")
        return rules

    @field_validator("slices")
    @classmethod
    def _no_repeats(cls, slices: tuple[str, ...]) -> tuple[str, ...]:
        for name in slices:
            if slices.count(name) > 1:
                raise ValueError(f"{name} is listed twice; remove one")
        return slices

    @field_validator("approve", mode="before")
    @classmethod
    def _by_name(cls, approve: Any) -> Any:
        """YAML has 25 for a number, and JSON has no key but a text."""
        if not isinstance(approve, dict):
            return approve
        numbers = (int, float)
        return {f"{key:g}" if isinstance(key, numbers) else str(key): people for key, people in approve.items()}

    @model_validator(mode="after")
    def _approvals_are_of_steps(self) -> RolloutPlan:
        names = [step_name(step) for step in self.steps]
        for name in self.approve:
            if name not in names:
                raise ValueError(f"approve: {name} is no step; there are {', '.join(names)}")
            if name == names[0]:
                raise ValueError(f"approve: {name} is the first step, which whoever starts decides; remove it")
        return self

    @model_validator(mode="after")
    def _rules_are_apart(self) -> RolloutPlan:
        seen: set[tuple[str, str, str | None]] = set()
        for index, rule in enumerate(self.rules or ()):
            place = (rule.output, rule.metric, rule.by)
            if place in seen:
                raise ValueError(f"rules.{index}: limits {rule.metric} of {rule.output} again; remove one")
            seen.add(place)
        return self

    @property
    def soak_time(self) -> timedelta:
        """How long a step lasts at least."""
        number, unit = self.soak[:-1], self.soak[-1]
        return timedelta(seconds=int(number) * _UNITS[unit])

    def name(self, stage: int) -> str:
        """What people call a step, `shadow` or `25`, by its place in `steps`."""
        return step_name(self.steps[stage])

    def weight(self, stage: int) -> float:
        """Percent of the traffic in a step, by its place in `steps`; 0 in `shadow`."""
        step = self.steps[stage]
        return 0.0 if isinstance(step, str) else step

    @property
    def last(self) -> int:
        """The place of the last step."""
        return len(self.steps) - 1

    def approvers(self, stage: int) -> tuple[str, ...]:
        """Who may let a rollout enter this step; empty where nobody is asked."""
        return self.approve.get(self.name(stage), ()) if stage <= self.last else ()


def step_name(step: str | float) -> str:
    """`shadow`, or the percent without needless digits."""
    return step if isinstance(step, str) else f"{step:g}"
