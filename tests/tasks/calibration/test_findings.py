from __future__ import annotations

from typing import Any

import pytest

from tasks.calibration.findings import (
    CLIPPING_LIMIT,
    count_strata,
    differs,
    find_age,
    find_differences,
    find_gaps,
)
from tasks.calibration.report import FeatureDrift, Place, RangeCoverage, Resemblance, TokenCoverage
from validation.drift import KS_LIMIT, PSI_LIMIT, UNSEEN_LIMIT


def gaps(
    minima: dict[str, dict[str, int | float]],
    counts: dict[str, dict[str, int]],
    production: dict[str, dict[str, int]] | None = None,
    *,
    samples: int = 100,
    production_samples: int = 100,
) -> list[str]:
    """Sentences of what is missing in a set with so many samples of each value."""
    found = Resemblance(
        set_samples=samples,
        production_samples=production_samples,
        counts=counts,
        production_counts=production or {},
    )
    return [finding.sentence for finding in find_gaps(count_strata(minima, found))]


def noise(**counts: int) -> dict[str, dict[str, int]]:
    return {"noise": counts}


def test_a_value_that_the_set_lacks_is_named_with_its_share_of_production() -> None:
    found = gaps({"noise": {"quiet": 50, "street": 50}}, noise(quiet=100), noise(quiet=69, street=31))
    assert found == ["stratum noise=street has 0 samples, production has 31 %"]


def test_a_required_value_is_missed_though_production_has_no_such_stratum() -> None:
    assert gaps({"noise": {"street": 1}}, noise(quiet=100)) == ["stratum noise=street has 0 samples"]


def test_counts_below_the_minimum_are_found_and_at_the_minimum_not() -> None:
    asked: dict[str, dict[str, int | float]] = {"noise": {"quiet": 50, "street": 51}}
    assert gaps(asked, noise(quiet=50, street=50)) == [
        "stratum noise=street has 50 samples; manifest.yaml asks for 51",
    ]


def test_shares_below_the_minimum_are_found_and_at_the_minimum_not() -> None:
    asked: dict[str, dict[str, int | float]] = {"noise": {"quiet": 0.75, "street": 0.3}}
    assert gaps(asked, noise(quiet=75, street=25)) == [
        "stratum noise=street has 25 samples, 25 % of the set; manifest.yaml asks for 30 %",
    ]


def test_shares_that_round_alike_are_told_apart() -> None:
    found = gaps({"noise": {"street": 0.1}}, noise(street=997, quiet=9003), samples=10_000)
    assert found == ["stratum noise=street has 997 samples, 9.97 % of the set; manifest.yaml asks for 10 %"]


@pytest.mark.parametrize(("seen", "expected"), [(10, 1), (9, 0)])
def test_a_value_that_only_production_has_matters_from_one_percent_on(seen: int, expected: int) -> None:
    found = gaps({"noise": {"quiet": 1}}, noise(quiet=100), noise(quiet=1000 - seen, bus=seen), production_samples=1000)
    assert found == ["stratum noise=bus has 0 samples, production has 1 %"][:expected]


def test_a_value_that_may_be_missing_may_be_missing() -> None:
    assert gaps({"noise": {"quiet": 1, "street": 0}}, noise(quiet=100), noise(quiet=100)) == []


@pytest.mark.parametrize(("rare", "expected"), [(6, 1), (5, 0)])
def test_values_too_rare_to_matter_alone_matter_together(rare: int, expected: int) -> None:
    production = {"quiet": 1000 - 9 * rare} | {f"town{number}": 9 for number in range(rare)}
    found = gaps({"noise": {"quiet": 1}}, noise(quiet=100), {"noise": production}, production_samples=1000)
    assert found == ["6 values of stratum noise have 0 samples, production has 5.4 % of them together"][:expected]


@pytest.mark.parametrize(("street", "share", "expected"), [(1, 90, 1), (1, 10, 0), (4, 90, 0), (20, 100, 0)])
def test_a_single_sample_of_what_production_is_made_of_does_not_count(street: int, share: int, expected: int) -> None:
    found = gaps(
        {"noise": {"quiet": 1, "street": 1}},
        noise(quiet=32 - street, street=street),
        noise(quiet=100 - share, street=share),
        samples=32,
    )
    assert found == ["stratum noise=street has 1 sample, 3.1 % of the set, production has 90 %"][:expected]


def test_rows_of_strata_hold_what_is_asked_and_what_is_there() -> None:
    found = Resemblance(
        set_samples=50,
        production_samples=200,
        counts={"level": {"1": 50}, "noise": {"quiet": 50}},
        production_counts={"level": {"1": 150, "2": 50}},
    )
    rows = count_strata({"level": {"1": 0.5}, "noise": {"quiet": 3, "street": 2}}, found)
    assert [(r.stratum, r.value, r.samples, r.minimum, r.share, r.production_share) for r in rows] == [
        ("level", "1", 50, 0.5, 1.0, 0.75),
        ("level", "2", 0, 0, 0.0, 0.25),
        ("noise", "quiet", 50, 3, 1.0, None),
        ("noise", "street", 0, 2, 0.0, None),
    ]


def test_seventy_values_are_judged_each() -> None:
    values = [f"v{number:02}" for number in range(70)]
    found = gaps(
        {"town": dict.fromkeys(values, 1)},
        {"town": dict.fromkeys(values[:-1], 10)},
        {"town": dict.fromkeys(values, 10)},
        samples=690,
        production_samples=700,
    )
    assert found == ["stratum town=v69 has 0 samples, production has 1.4 %"]


@pytest.mark.parametrize(("age", "found"), [(365, 0), (366, 1)])
def test_a_set_is_too_old_from_the_day_after_its_limit(age: int, found: int) -> None:
    findings = list(find_age(age, 365))
    assert [(finding.check, finding.sentence) for finding in findings] == [
        ("freshness", "its newest sample is 366 days old; manifest.yaml's max_age_days is 365")
    ][:found]


def test_without_a_limit_no_set_is_too_old() -> None:
    assert not list(find_age(10_000, None))


STREET = Place(stratum="noise", value="street")


def feature(name: str = "length", place: Place | None = None, **numbers: float) -> FeatureDrift:
    drift = {"psi": 0.0, "psi_low": 0.0, "ks": 0.0, "ks_low": 0.0} | numbers
    return FeatureDrift(feature=name, place=place or Place(), set_samples=90, production_samples=600, **drift)


def differences(**parts: Any) -> list[tuple[str, str]]:
    found = Resemblance(set_samples=90, production_samples=600, counts={}, production_counts={}, **parts)
    return [(finding.check, finding.sentence) for finding in find_differences(found)]


@pytest.mark.parametrize(("bound", "limit"), [("ks_low", KS_LIMIT), ("psi_low", PSI_LIMIT)])
def test_either_bound_beyond_its_limit_is_a_difference(bound: str, limit: float) -> None:
    assert not differs(feature(**{bound: limit}))
    assert differs(feature(**{bound: limit + 1e-9}))


def test_large_estimates_without_evidence_are_no_finding() -> None:
    assert differences(features=(feature(ks=0.9, psi=9.0),)) == []


def test_one_feature_is_said_with_its_numbers() -> None:
    row = feature("length of frames", STREET, psi=1.25, psi_low=0.75, ks=0.5, ks_low=0.375)
    assert differences(features=(row,)) == [
        (
            "drift",
            (
                "length of frames is distributed otherwise than in production where noise=street: D 0.5, at least 0.38"
                " (limit 0.2); PSI 1.2, at least 0.75 (limit 0.25)"
            ),
        )
    ]


def test_each_place_has_one_finding_that_counts_features_and_names_the_worst() -> None:
    rows = [feature("a", ks=0.3, ks_low=0.25), feature("b", ks=0.6, ks_low=0.5), feature("c")]
    found = differences(features=(*rows, feature("a", STREET, ks_low=0.3), feature("b", STREET)))
    assert [sentence.partition(";")[0] for _, sentence in found] == [
        "2 of 3 features differ from production",
        "1 of 2 features differ from production where noise=street",
    ]
    assert "most: b is distributed otherwise than in production: D 0.6, at least 0.5" in found[0][1]


@pytest.mark.parametrize(("beyond", "found"), [(UNSEEN_LIMIT, 0), (UNSEEN_LIMIT + 1e-9, 1)])
def test_tokens_that_the_set_lacks_are_a_finding_beyond_the_limit(beyond: float, found: int) -> None:
    row = TokenCoverage(input="input_ids", place=STREET, unseen=0.25, expected=0.03125, beyond=beyond)
    assert (
        differences(tokens=(row,))
        == [
            (
                "drift",
                (
                    "25 % of production's input_ids where noise=street are tokens that the set lacks; a set of its size"
                    " from the same source would lack 3.1 %"
                ),
            )
        ][:found]
    )


def clipped(worst: float, *, evident: bool = True) -> RangeCoverage:
    return RangeCoverage(
        tensor="relu_3",
        set_largest=2.0,
        production_largest=8.0,
        clipped=0.01,
        worst=STREET,
        worst_clipped=worst,
        evident=evident,
    )


def test_clipping_beyond_its_limit_is_one_finding_that_names_the_worst_tensor() -> None:
    assert differences(ranges=(clipped(CLIPPING_LIMIT), clipped(0.9, evident=False))) == []
    assert differences(ranges=(clipped(0.25), clipped(0.06), clipped(0.01))) == [
        (
            "range",
            (
                "2 of 3 tensors go beyond the range of the set; most: relu_3 ends at 2 in the set and at 8 in"
                " production, and clipping it is an error of 25 % where noise=street (limit 5 %)"
            ),
        )
    ]


def test_what_was_compared_in_nothing_does_not_pass() -> None:
    ((check, sentence),) = differences()
    assert check == "drift"
    assert sentence.startswith("nothing was compared")
