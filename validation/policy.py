"""Policies: read from `policy.yaml`, or the default for an output's kind and an engine's precision."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from validation.kinds import KEYS, KINDS
from validation.metrics import METRICS, Direction
from validation.misfits import find_wrong_key
from validation.outputs import OutputKind, OutputSpec
from validation.range_limits import worst_in_range
from validation.rules import (
    DEFAULT_CONFIDENCE,
    DEFAULT_MIN_SAMPLES,
    DEFAULT_RESAMPLES,
    PRECISIONS,
    PerformanceRule,
    Policy,
    PolicyError,
    Rule,
    find_problem,
    finite_number,
    limit_at,
    shown,
    suggest,
)

__all__ = [
    "PerformanceRule",
    "Policy",
    "PolicyError",
    "Rule",
    "default_policy",
    "outputs_from_mapping",
    "policy_from_mapping",
]

_POLICY_KEYS = ("confidence", "min_samples", "resamples", "outputs", "rules", "performance")
_RULE_KEYS = ("output", "metric", "max", "min", "within", "by")
_PERFORMANCE_KEYS = ("metric", "min", "precision")
_OUTPUT_KEYS = ("kind", "range", "mask", *KEYS)

Limits = tuple[tuple[str, float], ...]


def policy_from_mapping(mapping: Any, outputs: Mapping[str, OutputSpec], origin: str = "policy.yaml") -> Policy:
    """Make a policy of a parsed YAML or JSON document; README, "Policies", has an example of every key.

    `outputs` are the outputs that rules may name; the document's own `outputs`, where it has them, must be the same.

    Raises:
        PolicyError: for anything but a complete, consistent policy. The message starts with `origin` and the field.
    """
    document = known_keys(mapping, _POLICY_KEYS, origin)
    own = outputs_from_mapping(document, origin)
    for name in own:
        if own[name] != outputs.get(name):
            raise PolicyError(f"{origin}: outputs.{name}: differs from the model's output; correct it or leave it out")
    entries = document.get("rules")
    if not isinstance(entries, list) or not entries:
        raise PolicyError(f"{origin}: rules: there are none, so anything would pass; list at least one rule")
    speeds = document.get("performance", [])
    if not isinstance(speeds, list):
        raise PolicyError(f"{origin}: performance: {shown(speeds)} is no list of rules")
    rules = tuple(_rule(entry, outputs, f"{origin}: rules[{index}]") for index, entry in enumerate(entries))
    performance = tuple(
        performance_rule(entry, f"{origin}: performance[{index}]") for index, entry in enumerate(speeds)
    )
    try:
        return Policy(
            rules=rules,
            min_samples=document.get("min_samples", DEFAULT_MIN_SAMPLES),
            confidence=document.get("confidence", DEFAULT_CONFIDENCE),
            resamples=document.get("resamples", DEFAULT_RESAMPLES),
            performance=performance,
        )
    except PolicyError as error:
        raise PolicyError(f"{origin}: {error}") from None


def outputs_from_mapping(mapping: Any, origin: str = "policy.yaml") -> dict[str, OutputSpec]:
    """The output specs under the key `outputs` of a parsed policy document; empty where it has no such key.

    Raises:
        PolicyError: for an unknown key or kind, or a range that is not two numbers in order.
    """
    outputs = known_keys(mapping, _POLICY_KEYS, origin).get("outputs", {})
    if not isinstance(outputs, Mapping):
        raise PolicyError(
            f"{origin}: outputs: {shown(outputs)} is no mapping; write `name: {{kind: score}}` for each output"
        )
    return {str(name): _output(entry, f"{origin}: outputs.{name}") for name, entry in outputs.items()}


def default_policy(outputs: Mapping[str, OutputSpec], precision: str, slices: Collection[str] = ()) -> Policy:
    """The rules for models that bring none, by kind of output and precision (`PRECISIONS`).

    `slices` are those of the validation data. Labels have no default: they say nothing of which output is theirs.
    README, "Policies", has the table of limits with their sources.

    Raises:
        PolicyError: without outputs.
        ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {shown(precision)} is none; {suggest(precision, PRECISIONS)}")
    rules = [
        _limit(name, *limit, by=by)
        for name, spec in outputs.items()
        for by, limits in _default_limits(spec, precision, slices)
        for limit in limits
    ]
    return Policy(rules=tuple(rules))


# Limits for FP32, FP16 and INT8; `limit_at` has those of the others. FP32 engines only reorder sums, hence a tenth of
# FP16's error at the 99th percentile.
# A mean's limit must allow what one wrong sample in a hundred costs: `DEFAULT_MIN_SAMPLES` can tell no fewer from none.
_SCORE_ERROR = (0.0125, 0.0125, 0.02)  # of the range
_SCORE_P99 = (0.005, 0.05, 0.10)
_SCORE_BIAS = 0.0125
_SLICE_ERROR = (0.02, 0.02, 0.04)
_SLICE_BIAS = 0.02
_SCORE_P99_SD = (0.02, 0.1, 0.5)  # of the reference's spread
_RELATIVE_ERROR, _RELATIVE_P99 = 0.5, (0.01, 0.05, 0.25)
_COSINE, _COSINE_P1 = 0.975, (0.9995, 0.995, 0.95)
_AGREEMENT = (0.985, 0.985, 0.975)
_DIVERGENCE = (0.01, 0.01, 0.02)


def _default_limits(spec: OutputSpec, precision: str, slices: Collection[str]) -> Iterable[tuple[str | None, Limits]]:
    if spec.kind is OutputKind.SCORE:
        yield from _score_limits(spec.span, precision, slices)
    elif spec.kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES}:
        agreement = limit_at(_AGREEMENT, precision)
        yield None, (("top1_agreement", agreement), ("js", limit_at(_DIVERGENCE, precision)), ("ks", 0.05))
        for name in slices:
            yield name, (("top1_agreement", 1 - 2 * (1 - agreement)),)
    elif spec.kind is OutputKind.EMBEDDING:
        yield None, (("cosine", _COSINE), ("cosine_p1", limit_at(_COSINE_P1, precision)), ("retrieval_overlap@10", 0.9))
    elif spec.kind is OutputKind.TENSOR:
        yield None, (("relative_l2", _RELATIVE_ERROR), ("relative_l2_p99", limit_at(_RELATIVE_P99, precision)))
    else:
        yield from _limits_of_row(spec, precision, slices)


def _limits_of_row(spec: OutputSpec, precision: str, slices: Collection[str]) -> Iterable[tuple[str | None, Limits]]:
    for default in KINDS[spec.kind].defaults:
        limit, ideal = limit_at(default.limits or _AGREEMENT, precision), METRICS[default.metric].ideal
        yield None, ((default.metric, limit),)
        for name in slices if default.by_slice else ():
            yield name, ((default.metric, ideal + 2 * (limit - ideal)),)


def _score_limits(span: float | None, precision: str, slices: Collection[str]) -> Iterable[tuple[str | None, Limits]]:
    shape = (("p99_sd", limit_at(_SCORE_P99_SD, precision)), ("median_sd", 0.05), ("ks", 0.05))
    if span is None:  # no unit to judge an absolute error in
        yield None, shape
        return
    mae, p99 = (limit_at(limits, precision) * span for limits in (_SCORE_ERROR, _SCORE_P99))
    error = (("mae", mae), ("p99_abs", p99), ("bias", _SCORE_BIAS * span))
    yield None, (*error, *shape)
    for name in slices:
        yield name, (("mae", limit_at(_SLICE_ERROR, precision) * span), ("bias", _SLICE_BIAS * span))


def _limit(output: str, metric: str, limit: float, *, by: str | None) -> Rule:
    direction = METRICS[metric].direction
    return Rule(
        output=output,
        metric=metric,
        max=limit if direction is Direction.LOWER_IS_BETTER else None,
        min=limit if direction is Direction.HIGHER_IS_BETTER else None,
        within=limit if direction is Direction.NEARER_ZERO_IS_BETTER else None,
        by=by,
    )


def known_keys(mapping: Any, known: Iterable[str], where: str) -> Mapping[str, Any]:
    """The mapping itself; raises PolicyError, which starts with `where`, if it is none or has an unknown key."""
    if not isinstance(mapping, Mapping):
        raise PolicyError(f"{where}: {shown(mapping)} is no mapping; give the keys {', '.join(known)}")
    for key in mapping:
        if key not in known:
            raise PolicyError(f"{where}: {shown(key)} is no key here; {suggest(key, known)}")
    return mapping


def _rule(entry: Any, outputs: Mapping[str, OutputSpec], where: str) -> Rule:
    rule = known_keys(entry, _RULE_KEYS, where)
    output, metric = rule.get("output"), rule.get("metric")
    if not isinstance(output, str) or output not in outputs:
        raise PolicyError(f"{where}.output: {shown(output)} is no output; {suggest(output, outputs)}")
    limits = {side: rule[side] for side in ("max", "min", "within") if side in rule}
    if None in limits.values():
        raise PolicyError(f"{where}: a limit is empty; give a number or leave its key out")
    by = rule.get("by")
    if "by" in rule and (not isinstance(by, str) or not by):
        raise PolicyError(f"{where}.by: {shown(by)} is no slice; name one, as `level` for slice.level")
    problem = find_problem(metric, limits)
    if problem:
        raise PolicyError(f"{where}.{problem}")
    kind = outputs[output].kind
    if kind not in METRICS[str(metric)].kinds:
        has = ", ".join(name for name, known in METRICS.items() if kind in known.kinds)
        raise PolicyError(
            f"{where}.metric: {metric} is not defined for {output}, whose kind is {kind.value}; use {has}"
        )
    made = Rule(output=output, metric=str(metric), by=by, **{side: float(limit) for side, limit in limits.items()})
    _refuse_the_whole_range(made, outputs[output], where)
    return made


def _refuse_the_whole_range(rule: Rule, spec: OutputSpec, where: str) -> None:
    worst = worst_in_range(rule.metric, spec)
    if worst is not None and (rule.limit <= worst if rule.side == "min" else rule.limit >= worst):
        raise PolicyError(
            f"{where}.{rule.side}: {rule.limit:g} is met by any two outputs that keep to the range of {rule.output}"
            f" ({rule.metric} is {worst:g} at worst), so anything would pass; tighten it"
        )


def performance_rule(entry: Any, where: str) -> PerformanceRule:
    """Make a rule of performance of its entry in a document; raises PolicyError, which starts with `where`."""
    rule = known_keys(entry, _PERFORMANCE_KEYS, where)
    limit = finite_number(rule.get("min"))
    if limit is None:
        raise PolicyError(
            f"{where}.min: {shown(rule.get('min'))} is no speed-up; give a number above 0, where 1 is as fast"
        )
    try:
        return PerformanceRule(metric=str(rule.get("metric")), min=limit, precision=rule.get("precision"))
    except PolicyError as error:
        raise PolicyError(f"{where}.{error}") from None


def _output(entry: Any, where: str) -> OutputSpec:
    spec = known_keys(entry, _OUTPUT_KEYS, where)
    kinds = [kind.value for kind in OutputKind]
    if spec.get("kind") not in kinds:
        raise PolicyError(
            f"{where}.kind: {shown(spec.get('kind'))} is no kind of output; {suggest(spec.get('kind'), kinds)}"
        )
    low, high = _range(spec["range"], where) if "range" in spec else (None, None)
    mask = _mask(spec, where)
    try:
        made = OutputSpec(kind=OutputKind(spec["kind"]), low=low, high=high, mask=mask, **_own_keys(spec, where))
    except ValueError as error:
        raise PolicyError(f"{where}.{error}") from None
    problem = find_wrong_key(made)
    if problem is not None:
        raise PolicyError(f"{where}.{problem}")
    return made


def _own_keys(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in KEYS:
        number = finite_number(spec.get(key))
        if key in spec and (number is None or (key != "threshold" and not isinstance(spec[key], int))):
            kind = "number" if key == "threshold" else "whole number"
            raise PolicyError(f"{where}.{key}: {shown(spec[key])} is no {kind}; give one")
    return {key: spec[key] for key in KEYS if key in spec}


def _mask(spec: Mapping[str, Any], where: str) -> str | None:
    mask = spec.get("mask")
    if "mask" in spec and (not isinstance(mask, str) or not mask):
        raise PolicyError(f"{where}.mask: {shown(mask)} is no array's name; name one that is zero at padding")
    return mask


def _range(ends: Any, where: str) -> tuple[float, float]:
    numbers = [finite_number(end) for end in ends] if isinstance(ends, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:  # noqa: PLR2004 - an interval has two ends
        raise PolicyError(f"{where}.range: {shown(ends)} is no interval; give two numbers, [low, high]")
    return numbers[0], numbers[1]
