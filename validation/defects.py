"""Finds what makes a batch of outputs unfit to compare, and words it: every defect fails the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from validation.elements import Numbers
from validation.misfits import elements_are_positions
from validation.outputs import OutputSpec
from validation.printing import printable

LARGEST_MAGNITUDE = 1e140
"""Larger numbers count as infinite: their squares, summed, would overflow float64."""
_SHOWN = 5
_NUMERIC_KINDS = "iuf"


@dataclass
class _Defect:
    text: str
    count: int = 0
    first: list[int] = field(default_factory=list)


class DefectLog:
    """Collects defects over batches, one sentence for each output and problem, in the order they were first met."""

    def __init__(self) -> None:
        self._defects: dict[tuple[str, str], _Defect] = {}

    def add(self, output: str, text: str, samples: Numbers, *, problem: str = "") -> None:
        """Note a defect of an output on these samples (indices over all batches).

        `problem` joins defects whose texts differ by batch, such as shapes: the first one's text is kept.
        """
        defect = self._defects.setdefault((output, problem or text), _Defect(text))
        defect.count += len(samples)
        defect.first.extend(int(index) for index in samples[: _SHOWN - len(defect.first)])

    def sentences(self) -> tuple[str, ...]:
        """Each names the output, what is wrong, the number of samples affected and the indices of the first."""
        return tuple(printable(f"{output}: {_sentence(defect)}") for (output, _), defect in self._defects.items())


def _sentence(defect: _Defect) -> str:
    if defect.count == 0:
        return f"{defect.text} (in a batch without samples)"
    which = ", ".join(str(index) for index in defect.first)
    if defect.count == 1:
        return f"{defect.text} (1 sample: {which})"
    more = ", …" if defect.count > len(defect.first) else ""
    return f"{defect.text} ({defect.count:,} samples: {which}{more})"


def count_samples(
    reference: Mapping[str, Numbers], candidate: Mapping[str, Numbers], expected: Mapping[str, object]
) -> int:
    """Length of the batch: the longest first axis of the reference's expected outputs, else of the candidate's."""
    for side in (reference, candidate):
        arrays = [array for name, array in side.items() if name in expected and isinstance(array, np.ndarray)]
        lengths = [int(array.shape[0]) for array in arrays if array.ndim > 0]
        if lengths:
            return max(lengths)
    return 0


class BatchCheck:
    """Checks one batch of `count` samples that starts at sample `start`, and notes its defects in `log`."""

    def __init__(self, log: DefectLog, *, start: int, count: int) -> None:
        self._log = log
        self._count = count
        self._all = np.arange(start, start + count)

    def names(self, side: str, found: Mapping[str, Numbers], expected: Mapping[str, object]) -> None:
        """Note outputs of this side that are missing or that nobody declared."""
        for name in expected:
            if name not in found:
                self._log.add(name, f"the {side} lacks this output", self._all)
        for name in sorted(set(found) - set(expected)):
            self._log.add(name, f"the {side} has this output, which is not declared", self._all)

    def pair(self, output: str, reference: Numbers, candidate: Numbers, mask: NDArray[np.bool_] | None = None) -> bool:
        """Whether the two arrays can be compared; what is against it is noted. Masked elements may be anything."""
        sides = {"reference": reference, "candidate": candidate}
        # Both sides are looked at, so that the defects name each side that is at fault.
        numeric = [self._is_numeric(output, side, array) for side, array in sides.items()]
        if not all(numeric) or not self._same_shape(output, reference, candidate):
            return False
        finite = [self._is_finite(output, side, array, mask) for side, array in sides.items()]
        return all(finite)

    def note(self, output: str, text: str, *, problem: str = "shape") -> None:
        """Note a defect of this whole batch."""
        self._log.add(output, text, self._all, problem=problem)

    def label(self, label: Numbers | None) -> Numbers | None:
        """The batch's labels, if they can be used; None, and a defect, where there are any that cannot."""
        if label is None:
            return None
        numeric = isinstance(label, np.ndarray) and label.dtype.kind in _NUMERIC_KINDS + "b"
        if not numeric or label.ndim == 0 or len(label) != self._count:
            what = f"shape {label.shape} and dtype {label.dtype}" if isinstance(label, np.ndarray) else type(label)
            self._log.add("label", f"{what} where one number per sample is needed", self._all, problem="labels")
            return None
        bad = ~np.isfinite(label.astype(np.float64)).all(axis=tuple(range(1, label.ndim)))
        if bad.any():
            self._log.add("label", "NaN or Inf", self._all[bad])
            return None
        return label

    def mask(
        self, output: str, spec: OutputSpec, masks: Mapping[str, Numbers], reference: Numbers
    ) -> NDArray[np.bool_] | None:
        """The mask of an output as booleans; None, and a defect, where it is missing or does not fit.

        What a position has lies on the output's last axis, but where each element is one.
        """
        name = spec.mask
        if name is None:
            return None
        if name not in masks:
            self._log.add(output, f"its mask {name} is missing", self._all)
            return None
        mask = np.asarray(masks[name])
        if not isinstance(reference, np.ndarray):
            return None  # noted as not numeric
        most = np.ndim(reference) if elements_are_positions(spec, reference) else max(1, np.ndim(reference) - 1)
        fits = 0 < mask.ndim <= most and mask.shape == np.shape(reference)[: mask.ndim]
        if mask.dtype.kind not in _NUMERIC_KINDS + "b" or not fits:
            text = f"its mask {name} has shape {mask.shape} and dtype {mask.dtype}, the output {np.shape(reference)}"
            self._log.add(output, text, self._all, problem="mask")
            return None
        return np.asarray(mask != 0)

    def _is_numeric(self, output: str, side: str, array: object) -> bool:
        if isinstance(array, np.ndarray) and array.dtype.kind in _NUMERIC_KINDS + "b":
            return True
        what = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"type {type(array).__name__}"
        self._log.add(output, f"the {side} is not numeric: {what}", self._all)
        return False

    def _same_shape(self, output: str, reference: Numbers, candidate: Numbers) -> bool:
        if reference.shape != candidate.shape:
            text = f"the reference has shape {reference.shape}, the candidate {candidate.shape}"
        elif reference.ndim == 0 or reference.shape[0] != self._count:
            text = f"shape {reference.shape} where the batch has {self._count} samples"
        elif 0 in reference.shape[1:]:
            text = f"shape {reference.shape} holds no element"
        else:
            return True
        self.note(output, text)
        return False

    def _is_finite(self, output: str, side: str, array: Numbers, mask: NDArray[np.bool_] | None) -> bool:
        good = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, dtype=bool)
        if array.dtype.kind == "f" and array.dtype.itemsize >= np.dtype(np.float64).itemsize:
            good &= np.abs(array) <= LARGEST_MAGNITUDE
        if mask is not None:
            good |= ~mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        bad = ~good.reshape(len(array), -1).all(axis=1) if array.size else np.zeros(0, dtype=bool)
        if bad.any():
            self._log.add(output, f"the {side} has NaN, Inf or a magnitude above 1e140", self._all[bad])
        return not bad.any()
