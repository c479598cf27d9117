"""Outputs of CTC: the symbols of each frame, whose greedy text is what a user reads."""

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Mask, Readers, smooth
from validation.bootstrap import Draws
from validation.catalogue import Direction, entry
from validation.elements import Numbers, positions_of
from validation.outputs import OutputKind
from validation.sample_numbers import SampleNumbers, counts, label_readers, share_reading
from validation.units import Columns

_KIND = frozenset({OutputKind.CTC})
_LEVENSHTEIN = "Levenshtein 1966; greedy text: Graves et al. 2006, ICML (best path decoding)"
Text = NDArray[np.int64]

METRICS = (
    entry(
        "text_agreement",
        _KIND,
        Direction.HIGHER_IS_BETTER,
        "share of samples whose greedy text is the reference's, symbol by symbol",
        _LEVENSHTEIN,
        worst=0.0,
        share=True,
    ),
    entry(
        "edit_distance",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "edits between the greedy text and the reference's, over the symbols of the longer one, mean over samples",
        f"{_LEVENSHTEIN}; normalised as in ICDAR 2019's robust reading",
        worst=1.0,
        share=True,
    ),
    entry(
        "error_rate_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the candidate's symbol error rate against the labels minus the reference's: edits over the labels' symbols",
        _LEVENSHTEIN,
        needs_label=True,
    ),
)


class TextAgreement(SampleNumbers):
    """See `Accumulator`; both sides are `[n, frames, symbols]`, of logits or probabilities.

    A label is the right text, `[n, length]` of the numbers of symbols; negative ones and the blank only fill it up.
    """

    def __init__(self, *, blank: int, with_label: bool) -> None:
        names = ("same", "frames", "text", "distance", "samples", "edits_r", "edits_c", "length")
        super().__init__(names, "frames", with_label=with_label)
        self._blank = blank

    def _numbers(self, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask) -> Columns:
        n, counted = len(reference), positions_of(mask, reference.shape)
        r, c = (side.argmax(axis=-1).reshape(n, -1) for side in (reference, candidate))
        texts = [[self._text(side[row][counted[row]]) for row in range(n)] for side in (r, c)]
        edits = np.array([edits_between(a, b) for a, b in zip(*texts, strict=True)], dtype=np.float64)
        longer = np.array([max(len(a), len(b), 1) for a, b in zip(*texts, strict=True)])
        there = np.asarray(counted.any(axis=1), dtype=np.float64)
        return {
            "same": counts((r == c) & counted),
            "frames": counts(counted),
            "samples": there,
            "text": np.asarray((edits == 0) * there),
            "distance": np.asarray(edits / longer),
            **self._against(label, texts, n),
        }

    def _against(self, label: Numbers | None, texts: list[list[Text]], n: int) -> dict[str, NDArray[np.float64]]:
        if label is None:
            return dict.fromkeys(("edits_r", "edits_c", "length"), np.zeros(n))
        right = [row[(row >= 0) & (row != self._blank)] for row in label.astype(np.int64)]
        edits = [[edits_between(a, b) for a, b in zip(side, right, strict=True)] for side in texts]
        found = {"edits_r": edits[0], "edits_c": edits[1], "length": [len(row) for row in right]}
        return {name: np.array(values, dtype=np.float64) for name, values in found.items()}

    def _text(self, frames: Text) -> Text:
        """The symbols of frames `[frames]`: one where it is repeated, none where it is blank."""
        new = np.append(True, frames[1:] != frames[:-1])[: len(frames)]
        return np.asarray(frames[new & (frames != self._blank)])

    def _readers(self, draws: Draws, n: int) -> Readers:
        readers: Readers = {
            "agreement": lambda: share_reading(draws, n, "same", "frames"),
            "text_agreement": lambda: share_reading(draws, n, "text", "samples"),
            "edit_distance": lambda: smooth(
                draws, n, lambda m: m["distance"] / m["samples"], highest={"distance": 1.0}, lowest={"distance": 0.0}
            ),
        }
        if not self._with_label:
            return {**readers, **label_readers(("error_rate_drop",), n)}
        most = draws.value(lambda m: m["frames"])
        return {
            **readers,
            "error_rate_drop": lambda: smooth(
                draws,
                n,
                lambda m: (m["edits_c"] - m["edits_r"]) / m["length"],
                "undefined: the labels have no symbol",
                lowest={"edits_r": most, "edits_c": 0.0},
                highest={"edits_r": 0.0, "edits_c": most},
            ),
        }


def edits_between(a: Text, b: Text) -> int:
    """Levenshtein's distance of two texts: symbols put in, left out or replaced.

    >>> edits_between(np.array([1, 2, 3]), np.array([1, 3, 3, 4]))
    2
    """
    if np.array_equal(a, b):
        return 0
    places = np.arange(len(b) + 1)
    row = places.copy()
    for symbol in a.tolist():
        best = row + 1
        best[1:] = np.minimum(best[1:], row[:-1] + (b != symbol))
        row = np.minimum.accumulate(best - places) + places  # what is put in, from left to right
    return int(row[-1])
