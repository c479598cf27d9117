"""Which layers to leave out of INT8: as few of the worst as needed until the gate passes. Pure logic, no work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class PrecisionSearch:
    """Looks for the smallest number of the worst layers without which an INT8 engine passes, and is worth having.

    `ranked` names the layers, worst first; the engine with all of them in INT8 is taken to have failed. Ask `next` for
    the layers to leave out, and `tell` how that engine did, until `next` is None; then `best` has the answer.

    It doubles the number until an engine passes, then bisects for the smallest. It takes for granted that with more
    layers left out an engine that passes goes on to pass, and one that is no faster than FP16 goes on to be none. So
    it ends where a failed engine is no faster than FP16: those that might pass are slower still. Leaving out all layers
    is FP16, and never tried. At most 2 log2(n) + 2 tries, none twice.
    """

    def __init__(self, ranked: Sequence[str]) -> None:
        self._ranked = tuple(ranked)
        self._failed = 0  # the largest number known to fail
        self._passed: int | None = None  # the smallest known to pass
        self._best: int | None = None
        self._hopeless = False

    def next(self) -> tuple[str, ...] | None:
        """The layers to leave out in the next try, worst first; None when the search is over. `tell` moves it on."""
        number = self._next_number()
        return None if number is None else self._ranked[:number]

    def _next_number(self) -> int | None:
        ceiling = len(self._ranked) if self._passed is None else self._passed
        if self._hopeless or ceiling - self._failed <= 1:
            return None
        if self._passed is None:
            return min(max(1, 2 * self._failed), ceiling - 1)
        return (self._failed + self._passed) // 2

    def tell(self, excluded: Sequence[str], passed: bool, faster_than_fp16: bool) -> None:
        """Say how the engine without `excluded`, which `next` gave, did at the gate and against FP16.

        Raises:
            ValueError: `excluded` is not what `next` gives.
        """
        if tuple(excluded) != self.next():
            raise ValueError(f"excluded: {list(excluded)} is not the try that next() gives, {self.next()}; tell of it")
        number = len(excluded)
        if passed:
            self._passed = number
            self._best = number if faster_than_fp16 else self._best
        else:
            self._failed = number
            self._hopeless = not faster_than_fp16

    @property
    def best(self) -> tuple[str, ...] | None:
        """The fewest layers without which an engine passed and was faster than FP16; None where none was."""
        return None if self._best is None else self._ranked[: self._best]
