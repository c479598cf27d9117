"""An organisation's floor under its models' policies: numbers that a policy may tighten and never loosen.

It names no output: each of its rules holds for every output that has the metric, or for those of one kind. Of rules by
slice it says nothing, since errors in a part of the samples are larger than in all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import known_keys, performance_rule
from validation.range_limits import IN_UNIT
from validation.rules import (
    DEFAULT_CONFIDENCE,
    DEFAULT_MIN_SAMPLES,
    DEFAULT_RESAMPLES,
    MOST_RESAMPLES,
    PerformanceRule,
    Policy,
    PolicyError,
    Rule,
    fewest_resamples,
    find_problem,
    shown,
    suggest,
)

_KEYS = ("confidence", "min_samples", "resamples", "rules", "performance")
_RULE_KEYS = ("metric", "kind", "max", "min", "within", "of_range")


@dataclass(frozen=True, kw_only=True)
class FloorRule:
    """A limit on a metric of every output that has it, or of those of `kind`.

    Where `of_range`, the limit is a share of the range that the output declares, else in the metric's unit.
    """

    metric: str
    side: str
    limit: float
    kind: OutputKind | None = None
    of_range: bool = False

    def fits(self, spec: OutputSpec) -> bool:
        """Whether it holds for an output."""
        return spec.kind in METRICS[self.metric].kinds and self.kind in {None, spec.kind}


@dataclass(frozen=True, kw_only=True)
class PolicyFloor:
    """What every policy has to meet; None where it asks for nothing."""

    rules: tuple[FloorRule, ...] = ()
    confidence: float | None = None
    min_samples: int | None = None
    resamples: int | None = None
    performance: tuple[PerformanceRule, ...] = ()


@dataclass(frozen=True)
class Tightened:
    """The policy that holds, and what the floor made stricter in it: a few words each, such as `mae max 0.5 → 0.02`."""

    policy: Policy
    changes: tuple[str, ...]


def floor_from_mapping(mapping: Any, origin: str = "floor.yaml") -> PolicyFloor:
    """Make a floor of a parsed YAML document; README, "Policies", has an example.

    Raises:
        PolicyError: for anything but a consistent floor that asks for something.
    """
    document = known_keys(mapping, _KEYS, origin)
    rules, speeds = (_listed(document, key, origin) for key in ("rules", "performance"))
    if not document or not any((rules, speeds, *(document.get(key) for key in _KEYS[:2]))):
        raise PolicyError(f"{origin}: asks for nothing, so it is no floor; give confidence, min_samples or rules")
    floor = PolicyFloor(
        rules=tuple(_rule(entry, f"{origin}: rules[{index}]") for index, entry in enumerate(rules)),
        confidence=document.get("confidence"),
        min_samples=document.get("min_samples"),
        resamples=document.get("resamples"),
        performance=tuple(
            performance_rule(entry, f"{origin}: performance[{index}]") for index, entry in enumerate(speeds)
        ),
    )
    _require_numbers(floor, origin)
    return floor


def _listed(document: Mapping[str, Any], key: str, origin: str) -> list[Any]:
    entries = document.get(key, [])
    if not isinstance(entries, list):
        raise PolicyError(f"{origin}: {key}: {shown(entries)} is no list of rules")
    return entries


def _rule(entry: Any, where: str) -> FloorRule:
    rule = known_keys(entry, _RULE_KEYS, where)
    limits = {side: rule[side] for side in ("max", "min", "within") if side in rule}
    problem = find_problem(rule.get("metric"), limits)
    if problem:
        raise PolicyError(f"{where}.{problem}")
    metric, kinds = METRICS[str(rule["metric"])], [kind.value for kind in OutputKind]
    if metric.needs_label:
        raise PolicyError(
            f"{where}.metric: {metric.name} needs labels, which not every model has; leave it to policies"
        )
    kind = rule.get("kind")
    if "kind" in rule and kind not in kinds:
        raise PolicyError(f"{where}.kind: {shown(kind)} is no kind of output; {suggest(kind, kinds)}")
    if kind is not None and OutputKind(kind) not in metric.kinds:
        raise PolicyError(f"{where}.kind: outputs of kind {kind} have no {metric.name}; correct one of the two")
    of_range = rule.get("of_range", False)
    if not isinstance(of_range, bool) or (of_range and metric.name not in IN_UNIT):
        raise PolicyError(f"{where}.of_range: is for {', '.join(sorted(IN_UNIT))}, as true; leave it out")
    ((side, limit),) = limits.items()
    return FloorRule(
        metric=metric.name, side=side, limit=float(limit), kind=kind and OutputKind(kind), of_range=of_range
    )


def _require_numbers(floor: PolicyFloor, origin: str) -> None:
    """Refuse the numbers that no policy could have."""
    confidence = DEFAULT_CONFIDENCE if floor.confidence is None else floor.confidence
    try:
        Policy(
            rules=(Rule(output="any", metric="mae", max=1.0),),
            min_samples=DEFAULT_MIN_SAMPLES if floor.min_samples is None else floor.min_samples,
            confidence=confidence,
            resamples=_resamples(confidence, floor.resamples or DEFAULT_RESAMPLES),
            performance=floor.performance,
        )
    except PolicyError as error:
        raise PolicyError(f"{origin}: {error}") from None


def _resamples(confidence: object, asked: int) -> int:
    """As many as are asked for, or as the confidence needs."""
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        return asked
    return max(asked, min(fewest_resamples(confidence), MOST_RESAMPLES))


def tighten(policy: Policy, floor: PolicyFloor, outputs: Mapping[str, OutputSpec]) -> Tightened:
    """The policy with the floor's numbers wherever those are stricter, and with its rules where it has none.

    Raises:
        PolicyError: a rule is a share of a range that an output does not declare.
    """
    changes: list[str] = []
    rules = list(policy.rules)
    for rule in floor.rules:
        for name, spec in outputs.items():
            if rule.fits(spec):
                _take_rule(rules, _of_output(rule, name, spec), changes)
    confidence = max(policy.confidence, floor.confidence or 0)
    min_samples = max(policy.min_samples, floor.min_samples or 0)
    resamples = _resamples(confidence, max(policy.resamples, floor.resamples or 0))
    held = replace(policy, rules=tuple(rules), confidence=confidence, min_samples=min_samples, resamples=resamples)
    changes += [
        f"{key} {getattr(policy, key):g} → {getattr(held, key):g}"
        for key in ("confidence", "min_samples", "resamples")
        if getattr(held, key) != getattr(policy, key)
    ]
    performance = list(policy.performance)
    for speed in floor.performance:
        _take_speed(performance, speed, changes)
    return Tightened(replace(held, performance=tuple(performance)), tuple(changes))


def _of_output(rule: FloorRule, name: str, spec: OutputSpec) -> Rule:
    limit = rule.limit
    if rule.of_range:
        if spec.span is None:
            raise PolicyError(
                f"policy floor: {rule.metric} is limited to a share of the range, and output {name} declares none; give"
                " it its range"
            )
        limit *= spec.span
    return Rule(output=name, metric=rule.metric, by=None, **{rule.side: limit})


def _take_rule(rules: list[Rule], needed: Rule, changes: list[str]) -> None:
    what = f"{needed.output} {needed.metric} {needed.side}"
    for index, rule in enumerate(rules):
        if (rule.output, rule.metric, rule.by) == (needed.output, needed.metric, None):
            looser = rule.limit < needed.limit if needed.side == "min" else rule.limit > needed.limit
            if looser:
                rules[index] = needed
                changes.append(f"{what} {rule.limit:g} → {needed.limit:g}")
            return
    rules.append(needed)
    changes.append(f"{what} {needed.limit:g}, which it lacks")


def _take_speed(performance: list[PerformanceRule], needed: PerformanceRule, changes: list[str]) -> None:
    what = needed.metric + (f" of {needed.precision}" if needed.precision else "") + " min"
    for index, rule in enumerate(performance):
        if (rule.metric, rule.precision) == (needed.metric, needed.precision):
            if rule.min < needed.min:
                performance[index] = needed
                changes.append(f"{what} {rule.min:g} → {needed.min:g}")
            return
    performance.append(needed)
    changes.append(f"{what} {needed.min:g}, which it lacks")
