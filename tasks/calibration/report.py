"""What is known of a calibration set: what was measured, and what was found wrong with it."""

from __future__ import annotations

from typing import Literal

from tasks.declared import Digest, Frozen


class StratumCount(Frozen):
    """A value of a stratum: samples in the set, and its share there and in production (None: not known).

    `minimum` is a count, or a share below 1.
    """

    stratum: str
    value: str
    samples: int
    minimum: int | float
    share: float
    production_share: float | None = None


class Place(Frozen):
    """All samples, or those with one value of a stratum."""

    stratum: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        """`noise=street`; empty for all samples."""
        return "" if self.stratum is None else f"{self.stratum}={self.value}"


class FeatureDrift(Frozen):
    """How far a feature's distribution in the set lies from that in production, with one-sided lower bounds."""

    feature: str
    place: Place
    psi: float
    psi_low: float
    ks: float
    ks_low: float
    set_samples: int
    production_samples: int


class TokenCoverage(Frozen):
    """Share of production's tokens that the set lacks, and the share that such a set would lack by chance.

    `beyond` is a lower bound of what the first has more.
    """

    input: str
    place: Place
    unseen: float
    expected: float
    beyond: float


class RangeCoverage(Frozen):
    """A tensor that INT8 quantizes: the largest absolute value in the set and in production.

    `clipped` is the relative L2 error of cutting production's values off at the set's largest one, in all samples or
    where it is worst. `evident` says that more of production lies beyond it there than chance puts beyond any set.
    """

    tensor: str
    set_largest: float
    production_largest: float
    clipped: float
    worst: Place
    worst_clipped: float
    evident: bool


class Resemblance(Frozen):
    """How a set compares with a sample of production.

    `counts` are the samples of the set and of production by stratum and value; production may lack a stratum. `run`
    counts the samples of each that the reference was run on.
    """

    set_samples: int
    production_samples: int
    counts: dict[str, dict[str, int]]
    production_counts: dict[str, dict[str, int]]
    features: tuple[FeatureDrift, ...] = ()
    tokens: tuple[TokenCoverage, ...] = ()
    ranges: tuple[RangeCoverage, ...] = ()
    run: tuple[int, int] | None = None


class Finding(Frozen):
    """One thing that is wrong with a set, in a sentence."""

    check: Literal["coverage", "freshness", "drift", "range"]
    sentence: str


class CalibrationReport(Frozen):
    """A checked set: its data by digest, what it was compared with, and every finding. It passed if there is none.

    `independent` counts its independent samples; None where that was not done.
    """

    name: str
    digest: Digest
    production: str
    production_digest: Digest
    age_days: int
    max_age_days: int | None
    strata: tuple[StratumCount, ...]
    resemblance: Resemblance
    findings: tuple[Finding, ...]
    independent: int | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings
