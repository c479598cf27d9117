"""Where one policy asks for less than another."""

from collections.abc import Iterator

from validation.rules import PerformanceRule, Policy, Rule


def find_looser(policy: Policy, than: Policy) -> tuple[str, ...]:
    """What `policy` asks less for than the other, a few words each: `score mae max 0.5, 0.02 there`; none if nothing.

    >>> strict = Policy(rules=(Rule(output="score", metric="mae", max=0.02),))
    >>> find_looser(Policy(rules=(Rule(output="score", metric="mae", max=0.5),), min_samples=1), strict)
    ('min_samples 1, 300 there', 'score mae max 0.5, 0.02 there')
    """
    return (*_numbers(policy, than), *_rules(policy, than), *_speeds(policy, than))


def _numbers(policy: Policy, than: Policy) -> Iterator[str]:
    for field in ("confidence", "min_samples"):
        own, other = getattr(policy, field), getattr(than, field)
        if own < other:
            yield f"{field} {own:,}, {other:,} there"


def _rules(policy: Policy, than: Policy) -> Iterator[str]:
    own = {(rule.output, rule.metric, rule.by): rule for rule in policy.rules}
    for other in than.rules:
        what = f"{other.output} {other.metric}" + (f" by {other.by}" if other.by else "")
        rule = own.get((other.output, other.metric, other.by))
        if rule is None:
            yield f"no rule on {what}, {other.side} {other.limit:g} there"
        elif _is_wider(rule, other):
            yield f"{what} {rule.side} {rule.limit:g}, {other.limit:g} there"


def _is_wider(rule: Rule, other: Rule) -> bool:
    return rule.limit < other.limit if rule.side == "min" else rule.limit > other.limit


def _speeds(policy: Policy, than: Policy) -> Iterator[str]:
    own = {(rule.metric, rule.precision): rule for rule in policy.performance}
    for other in than.performance:
        rule = own.get((other.metric, other.precision))
        if rule is None or rule.min < other.min:
            yield f"{_found(rule)} {_name(other)}, min {other.min:g} there"


def _found(rule: PerformanceRule | None) -> str:
    return "no rule on" if rule is None else f"min {rule.min:g} on"


def _name(rule: PerformanceRule) -> str:
    return rule.metric + (f" of {rule.precision}" if rule.precision else "")
