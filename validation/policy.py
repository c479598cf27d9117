"""Policies: read from `policy.yaml`, or the default for an output's kind and an engine's precision."""

from collections.abc import Iterable, Mapping
from typing import Any

from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.rules import Policy, PolicyError, Rule, find_problem, finite_number, suggest

__all__ = ["Policy", "PolicyError", "Rule", "default_policy", "outputs_from_mapping", "policy_from_mapping"]

_POLICY_KEYS = ("min_samples", "outputs", "rules")
_RULE_KEYS = ("output", "metric", "max", "min")
_OUTPUT_KEYS = ("kind", "range")
_DISTRIBUTION = (("pearson", 0.99), ("ks", 0.05), ("kl", 0.01))
_SCORE_ERROR = {"fp32": 0.001, "fp16": 0.01, "int8": 0.02}
_RELATIVE_ERROR = {"fp32": 0.002, "fp16": 0.02, "int8": 0.10}


def policy_from_mapping(mapping: Any, outputs: Mapping[str, OutputSpec], origin: str = "policy.yaml") -> Policy:
    """Make a policy of a parsed YAML or JSON document, `{min_samples: 200, rules: [{output, metric, max | min}, ...]}`.

    `outputs` are the outputs that rules may name; the document's own `outputs`, where it has them, must be the same.

    Raises:
        PolicyError: for anything but a complete, consistent policy. The message starts with `origin` and the field.
    """
    document = _keys(mapping, _POLICY_KEYS, origin)
    own = outputs_from_mapping(document, origin)
    for name in own:
        if own[name] != outputs.get(name):
            raise PolicyError(f"{origin}: outputs.{name}: differs from the model's output; correct it or leave it out")
    entries = document.get("rules")
    if not isinstance(entries, list) or not entries:
        raise PolicyError(f"{origin}: rules: there are none, so anything would pass; list at least one rule")
    rules = tuple(_rule(entry, outputs, f"{origin}: rules[{index}]") for index, entry in enumerate(entries))
    try:
        return Policy(rules=rules, min_samples=document.get("min_samples", 200))
    except PolicyError as error:
        raise PolicyError(f"{origin}: {error}") from None


def outputs_from_mapping(mapping: Any, origin: str = "policy.yaml") -> dict[str, OutputSpec]:
    """The output specs under the key `outputs` of a parsed policy document; empty where it has no such key.

    Raises:
        PolicyError: for an unknown key or kind, or a range that is not two numbers in order.
    """
    outputs = _keys(mapping, _POLICY_KEYS, origin).get("outputs", {})
    if not isinstance(outputs, Mapping):
        raise PolicyError(
            f"{origin}: outputs: {outputs!r} is no mapping; write `name: {{kind: score}}` for each output"
        )
    return {str(name): _output(entry, f"{origin}: outputs.{name}") for name, entry in outputs.items()}


def default_policy(outputs: Mapping[str, OutputSpec], precision: str) -> Policy:
    """The rules for models that bring none, by kind of output and precision (`fp32`, `fp16`, `int8`).

    | kind | error at most, fp32 / fp16 / int8 | also |
    |---|---|---|
    | score | mae_range 0.001 / 0.01 / 0.02 | pearson, ks, kl |
    | probabilities | mae 0.001 / 0.01 / 0.02 | pearson, ks, kl |
    | logits | | top1_agreement >= 0.99, pearson, ks, kl |
    | score without a range, embedding, tensor | relative_l2 0.002 / 0.02 / 0.10 | pearson, ks, kl |

    with pearson >= 0.99, ks <= 0.05, kl <= 0.01. Why these: an FP16 error of 1 % of a score's range, r and D are the
    practice of automated scoring, where a machine may differ from a human by 0.15 standard deviations and 0.10 of kappa
    (Williamson, Xi and Breyer 2012); an engine against its own reference must be far tighter. KL 0.01 nats is what a
    shift of a normal distribution by 0.14 standard deviations costs (shift^2 / 2), so it stays inside that 0.15. 99 %
    is MLPerf Inference's quality target for accuracy, here asked of agreement, which is stricter. A score without a
    range has no unit to judge an absolute error in, so its error is taken relative to its size. FP32 engines only
    reorder sums, hence a tenth of FP16's error.

    Raises:
        PolicyError: without outputs.
        ValueError: for another precision.
    """
    if precision not in _SCORE_ERROR:
        raise ValueError(f"precision: {precision!r} is none; {suggest(precision, _SCORE_ERROR)}")
    limits = [(name, *limit) for name, spec in outputs.items() for limit in _default_limits(spec, precision)]
    return Policy(rules=tuple(_limit(*limit) for limit in limits))


def _default_limits(spec: OutputSpec, precision: str) -> tuple[tuple[str, float], ...]:
    if spec.kind is OutputKind.LOGITS:
        return (("top1_agreement", 0.99), *_DISTRIBUTION)
    if spec.kind is OutputKind.PROBABILITIES:
        return (("mae", _SCORE_ERROR[precision]), *_DISTRIBUTION)
    if spec.kind is OutputKind.SCORE and spec.span is not None:
        return (("mae_range", _SCORE_ERROR[precision]), *_DISTRIBUTION)
    return (("relative_l2", _RELATIVE_ERROR[precision]), *_DISTRIBUTION)


def _limit(output: str, metric: str, limit: float) -> Rule:
    if METRICS[metric].ideal == 0:
        return Rule(output=output, metric=metric, max=limit)
    return Rule(output=output, metric=metric, min=limit)


def _keys(mapping: Any, known: Iterable[str], where: str) -> Mapping[str, Any]:
    if not isinstance(mapping, Mapping):
        raise PolicyError(f"{where}: {mapping!r} is no mapping; give the keys {', '.join(known)}")
    for key in mapping:
        if key not in known:
            raise PolicyError(f"{where}: {key!r} is no key here; {suggest(key, known)}")
    return mapping


def _rule(entry: Any, outputs: Mapping[str, OutputSpec], where: str) -> Rule:
    rule = _keys(entry, _RULE_KEYS, where)
    output, metric = rule.get("output"), rule.get("metric")
    if not isinstance(output, str) or output not in outputs:
        raise PolicyError(f"{where}.output: {output!r} is no output; {suggest(output, outputs)}")
    limits = {side: rule[side] for side in ("max", "min") if side in rule}
    if None in limits.values():
        raise PolicyError(f"{where}: a limit is empty; give a number or leave its key out")
    problem = find_problem(metric, limits)
    if problem:
        raise PolicyError(f"{where}.{problem}")
    kind = outputs[output].kind
    if kind not in METRICS[str(metric)].kinds:
        has = ", ".join(name for name, known in METRICS.items() if kind in known.kinds)
        raise PolicyError(
            f"{where}.metric: {metric} is not defined for {output}, whose kind is {kind.value}; use {has}"
        )
    return Rule(output=output, metric=str(metric), **{side: float(limit) for side, limit in limits.items()})


def _output(entry: Any, where: str) -> OutputSpec:
    spec = _keys(entry, _OUTPUT_KEYS, where)
    kinds = [kind.value for kind in OutputKind]
    if spec.get("kind") not in kinds:
        raise PolicyError(
            f"{where}.kind: {spec.get('kind')!r} is no kind of output; {suggest(spec.get('kind'), kinds)}"
        )
    low, high = _range(spec["range"], where) if "range" in spec else (None, None)
    try:
        return OutputSpec(kind=OutputKind(spec["kind"]), low=low, high=high)
    except ValueError as error:
        raise PolicyError(f"{where}.{error}") from None


def _range(ends: Any, where: str) -> tuple[float, float]:
    numbers = [finite_number(end) for end in ends] if isinstance(ends, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:  # noqa: PLR2004 - an interval has two ends
        raise PolicyError(f"{where}.range: {ends!r} is no interval; give two numbers, [low, high]")
    return numbers[0], numbers[1]
