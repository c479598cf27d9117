"""Reads `rollout.yaml`, and settles what it leaves to the canary."""

from __future__ import annotations

from math import ceil, log, log1p
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.model.documents import parse, read_yaml
from tasks.rollout_spec import RolloutPlan, RolloutRule
from validation.metrics import METRICS
from validation.policy import PolicyError, policy_from_mapping

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.records import EngineManifest


def read_plan(path: Path | None) -> RolloutPlan:
    """Read a plan; the default where there is no file.

    Raises:
        InputError: the file cannot be read or holds no plan; every mistake is named by file and field.
    """
    return RolloutPlan() if path is None else parse(RolloutPlan, read_yaml(path), path.name)


def settle(plan: RolloutPlan, canary: EngineManifest, origin: str = "rollout.yaml") -> RolloutPlan:
    """The plan with every slice that its rules name, so that hosts keep them.

    Raises:
        InputError: see `judged_rules`; or its horizon ends before the least that could show a pass.
    """
    rules = judged_rules(plan, canary, origin)
    _require_decidable(plan, origin)
    slices = dict.fromkeys((*plan.slices, *(rule.by for rule in rules if rule.by is not None)))
    return plan.model_copy(update={"slices": tuple(slices)})


def judged_rules(plan: RolloutPlan, canary: EngineManifest, origin: str = "rollout.yaml") -> tuple[RolloutRule, ...]:
    """The rules that a rollout is judged by: the plan's, each of them by each of `slices` too.

    Where the plan has none it is the canary's own policy, less the metrics that need labels, which live traffic has
    not.

    Raises:
        InputError: a rule names no output of the canary, a metric that it has not or one that needs labels, or no rule
            is left.
    """
    rules = plan.rules if plan.rules is not None else _own_rules(canary)
    if not rules:
        raise InputError(
            f"{origin}: rules: every rule of {canary.engine_id}'s policy needs labels, which live traffic has not, so"
            " anything would pass; list rules"
        )
    for index, rule in enumerate(rules):
        if METRICS[rule.metric].needs_label:
            raise InputError(
                f"{origin}: rules.{index}.metric: {rule.metric} needs labels, which live traffic has not; choose"
                " another metric"
            )
    _require_outputs(rules, canary, origin)
    by_slice = [rule.model_copy(update={"by": name}) for name in plan.slices for rule in rules if rule.by is None]
    all_rules = {(rule.output, rule.metric, rule.by): rule for rule in (*by_slice, *rules)}  # one that is listed wins
    return tuple(sorted(all_rules.values(), key=lambda rule: (rule.by is not None, rule.by or "")))


def _require_decidable(plan: RolloutPlan, origin: str) -> None:
    """Check that so many pairs may come that a canary which never fails could be shown to: it would wait for ever.

    A capital that is bet on no failure grows by 1 / (1 - limit) with each pair, and has to reach 1 / (1 - confidence).
    """
    pairs = plan.horizon.requests * plan.mirror
    asked = ceil(log(1 - plan.confidence) / log1p(-plan.errors)) if plan.errors else None
    if asked is None or asked > pairs:
        least = "no number of pairs shows" if asked is None else f"{asked:,} pairs without any are the least to show"
        raise InputError(
            f"{origin}: errors: {least} that at most {plan.errors:.3g} of the requests fail, and within the horizon of"
            f" {plan.horizon.requests:,} requests {pairs:,.0f} are mirrored; raise errors, mirror or horizon.requests"
        )


def _own_rules(canary: EngineManifest) -> tuple[RolloutRule, ...]:
    return tuple(RolloutRule.of(rule) for rule in canary.policy.rules if not METRICS[rule.metric].needs_label)


def _require_outputs(rules: Iterable[RolloutRule], canary: EngineManifest, origin: str) -> None:
    outputs = {name: declared.as_output_spec() for name, declared in canary.outputs.items()}
    entries = [rule.model_dump(mode="json") for rule in rules]
    try:
        policy_from_mapping({"rules": entries}, outputs, origin)
    except PolicyError as error:
        raise InputError(str(error)) from None
