from __future__ import annotations

from typing import Any

import pytest

from tasks.calibration.findings import count_strata, find_differences, find_gaps
from tasks.calibration.report import (
    CalibrationReport,
    FeatureDrift,
    Place,
    RangeCoverage,
    Resemblance,
    TokenCoverage,
)
from tasks.calibration.tables import MOST_ROWS, markdown_of, summary_of, tables_of

STREET = Place(stratum="noise", value="street")


def feature(name: str, place: Place = STREET, **numbers: float) -> FeatureDrift:
    drift = {"psi": 0.0, "psi_low": 0.0, "ks": 0.0, "ks_low": 0.0} | numbers
    return FeatureDrift(feature=name, place=place, set_samples=90, production_samples=600, **drift)


def tensor(name: str, worst: float, *, evident: bool = True) -> RangeCoverage:
    return RangeCoverage(
        tensor=name,
        set_largest=2.0,
        production_largest=8.25,
        clipped=worst / 2,
        worst=STREET,
        worst_clipped=worst,
        evident=evident,
    )


FEATURES = (feature("length", ks=0.5, ks_low=0.25, psi=1.0, psi_low=0.125), feature("quiet", Place(), ks=0.9, psi=9))
TOKENS = (TokenCoverage(input="ids", place=Place(), unseen=0.25, expected=0.125, beyond=0.0625),)
RANGES = (tensor("relu", 0.25), tensor("outlier", 0.5, evident=False), tensor("x", 0.0))


def report(**parts: Any) -> CalibrationReport:
    found = Resemblance(
        **(
            {
                "set_samples": 90,
                "production_samples": 1000,
                "counts": {"noise": {"quiet": 90}},
                "production_counts": {"noise": {"quiet": 690, "street": 310}},
                "features": FEATURES,
                "tokens": TOKENS,
                "ranges": RANGES,
                "run": (90, 256),
            }
            | parts
        )
    )
    strata = count_strata({"noise": {"quiet": 0.5, "street": 30}, "level": {"1": 0}}, found)
    return CalibrationReport(
        name="oral",
        digest=f"sha256:{'a' * 64}",
        production="validation",
        production_digest=f"sha256:{'b' * 64}",
        age_days=3,
        max_age_days=365,
        strata=strata,
        resemblance=found,
        findings=(*find_gaps(strata), *find_differences(found)),
    )


def rows(title: str, **parts: Any) -> list[list[str]]:
    (found,) = [found for name, _, found in tables_of(report(**parts)) if name.startswith(title)]
    return found


def test_strata_show_what_is_asked_what_is_there_and_what_production_has() -> None:
    assert rows("strata") == [
        ["✓", "noise=quiet", "90", "50.0 %", "100.0 %", "69.0 %"],
        ["✕", "noise=street", "0", "30", "0.0 %", "31.0 %"],
        ["✓", "level=1", "0", "0", "0.0 %", "-"],
    ]


def test_features_come_worst_bound_first() -> None:
    assert rows("features") == [
        ["✕", "length", "noise=street", "0.500", "0.250", "1.00", "0.12"],
        ["✓", "quiet", "all", "0.900", "0.000", "9.00", "0.00"],
    ]


def test_tokens_and_ranges_say_where_they_are_beyond_their_limit() -> None:
    assert rows("tokens") == [["✕", "ids", "all", "25.0 %", "12.5 %", "6.2 %"]]
    assert rows("ranges") == [
        ["✕", "relu", "2", "8.25", "12.5 %", "25.0 %", "noise=street", "no"],
        ["✓", "outlier", "2", "8.25", "25.0 %", "50.0 %", "noise=street", "yes"],
        ["✓", "x", "2", "8.25", "0.0 %", "0.0 %", "noise=street", "no"],
    ]


def test_every_row_has_a_cell_for_each_heading() -> None:
    assert all(len(row) == len(headings) for _, headings, found in tables_of(report()) for row in found)


def test_of_many_rows_the_worst_are_shown_and_all_are_counted() -> None:
    many = tuple(feature(f"f{number}", ks_low=number / 100) for number in range(50))
    (title,) = [title for title, *_ in tables_of(report(features=many)) if title.startswith("features")]
    assert title == f"features: the worst {MOST_ROWS} of 50"
    assert [row[1] for row in rows("features", features=many)] == [f"f{49 - number}" for number in range(MOST_ROWS)]


def test_empty_tables_are_left_out() -> None:
    assert [title for title, *_ in tables_of(report(features=(), tokens=(), ranges=()))] == ["strata"]


@pytest.mark.parametrize(("run", "end"), [(None, ""), ((90, 256), "; the reference was run on 90 and 256 of them")])
def test_the_summary_counts_what_was_compared(run: Any, end: str) -> None:
    expected = "90 samples against 1,000 of validation: 2 features, 3 ranges"
    assert summary_of(report(run=run)) == expected + end


def test_markdown_holds_every_finding_and_every_table() -> None:
    made = report()
    lines = markdown_of(made).splitlines()
    assert lines[0] == "# Calibration set oral"
    assert [line for line in lines if line.startswith("- ✕ ")] == [f"- ✕ {f.sentence}" for f in made.findings]
    assert len(made.findings) == 4
    tables = tables_of(made)
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == [title for title, *_ in tables]
    assert sum(line.startswith("| ") for line in lines) == sum(2 + len(found) for *_, found in tables)


def test_names_that_would_break_a_table_do_not() -> None:
    text = markdown_of(report(features=(feature("a|b\nc", ks=0.5),)))
    assert "| ✓ | a/b c | noise=street |" in text


def test_the_summary_says_how_many_samples_are_independent_where_some_are_not() -> None:
    assert "90 samples (30 independent) against" in summary_of(report().model_copy(update={"independent": 30}))
    for independent in (None, 90):
        assert "90 samples against" in summary_of(report().model_copy(update={"independent": independent}))
