"""Where the errors sit: mean absolute error by slice, and the samples that differ most."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validation.defects import DefectLog
from validation.elements import Numbers
from validation.groups import Members
from validation.units import Units

LARGEST_SLICE = 1_000
"""Distinct values of one slice beyond which it is no breakdown but an identifier."""
WORST_KEPT = 50
_SLICE_KINDS = "Uiubf"


@dataclass(frozen=True, kw_only=True)
class SliceError:
    """Mean absolute error, in the output's unit, of the `n` independent samples where `slice` has this value."""

    slice: str
    value: str
    output: str
    n: int
    mae: float


@dataclass(frozen=True, kw_only=True)
class WorstSample:
    """One sample's largest absolute error in one output, with the two values that make it.

    `column` is the column of a score output that has several, else None.
    """

    index: int
    output: str
    column: int | None
    reference: float
    candidate: float
    abs_error: float


class SliceErrors:
    """Running mean absolute error of every output by every value of every slice."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], Units] = {}
        self._values: dict[str, set[str]] = {}

    def label(
        self, slices: Mapping[str, Numbers], samples: NDArray[np.int64], log: DefectLog
    ) -> dict[str, NDArray[np.str_]]:
        """Each usable slice's value of every sample as text; unusable slices are noted in `log` and left out."""
        labels = {}
        for name, values in slices.items():
            if values.shape != samples.shape or values.dtype.kind not in _SLICE_KINDS:
                text = f"shape {values.shape} and dtype {values.dtype} where one label per sample is needed"
                log.add(f"slice.{name}", text, samples, problem="labels")
                continue
            text_labels = values.astype(np.str_)
            seen = self._values.setdefault(name, set())
            if len(seen) <= LARGEST_SLICE:
                seen.update(np.unique(text_labels).tolist())
            if len(seen) > LARGEST_SLICE:
                log.add(f"slice.{name}", f"more than {LARGEST_SLICE:,} distinct values", samples)
                continue
            labels[name] = text_labels
        return labels

    def add(
        self, output: str, place: tuple[str, str], errors: NDArray[np.float64], members: Members | None = None
    ) -> None:
        """Add the mean absolute errors `[n]` of samples of an output that have one value of a slice."""
        units = self._sums.setdefault((*place, output), Units(("error",)))
        units.add({"error": errors}, members)

    def result(self) -> tuple[SliceError, ...]:
        """All errors so far, sorted by slice, value and output."""
        return tuple(
            SliceError(
                slice=name,
                value=value,
                output=output,
                n=units.samples,
                mae=float(units.sums["error"].sum() / units.samples),
            )
            for (name, value, output), units in sorted(self._sums.items())
        )


class WorstSamples:
    """The `WORST_KEPT` samples with the largest absolute error over all outputs; ties go to the lower index."""

    def __init__(self) -> None:
        self._kept: list[WorstSample] = []

    def update(
        self,
        output: str,
        reference: Numbers,
        candidate: Numbers,
        errors: NDArray[np.float64],
        *,
        start: int,
        columns: bool,
    ) -> None:
        """Take in one batch of `[n, elements]` a side whose largest errors `[n]` are known; `start` is its first index.

        `columns` says that the elements are columns of a score, to be named.
        """
        least = self._kept[-1].abs_error if len(self._kept) == WORST_KEPT else 0.0
        rows = np.flatnonzero(errors >= least)
        top = rows[np.lexsort((rows, -errors[rows]))[:WORST_KEPT]]
        for row in top.tolist():
            r, c = reference[row].astype(np.float64), candidate[row].astype(np.float64)
            element = int(np.abs(r - c).argmax())
            self._kept.append(
                WorstSample(
                    index=start + row,
                    output=output,
                    column=element if columns else None,
                    reference=float(r[element]),
                    candidate=float(c[element]),
                    abs_error=float(errors[row]),
                )
            )
        self._kept = sorted(self._kept, key=lambda worst: (-worst.abs_error, worst.index, worst.output))[:WORST_KEPT]

    def result(self) -> tuple[WorstSample, ...]:
        """The worst samples, worst first."""
        return tuple(self._kept)
