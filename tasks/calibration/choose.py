"""Chooses the samples of a calibration set: alike from every stratum, with the tails of the scores. Pure.

Rare strata are chosen more often than they occur, on purpose: INT8 clips what its set never showed. Within a *cell*,
the samples that share all values of the strata, the choice is uniform, so that the set still looks like its source, but
for at most a tenth, which may be swapped for samples of the tails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

TAIL = 0.05
"""Share of a cell that is its lowest tail, and its highest."""
SWAPPED = 10
"""One of so many drawn samples may be swapped for one of a tail: more would bend the distribution of the scores."""
Cell = tuple[str, ...]
"""The values of the strata of a sample, as text, always in the same order."""


def choose_samples(
    cells: Sequence[Cell], scores: NDArray[np.float64] | None, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose `size` of n samples, ascending, without replacement.

    The cells get equal shares as far as they have samples; where there are more cells than `size`, those come first
    that show every value of every stratum. In a cell that draws 20 or more, the lowest and the highest 5 % of its
    scores have at least one; in one that draws 10 to 19, one of the two; the whole set has one from both tails of all.

    Args:
        cells: the cell of each sample, [n].
        scores: the score of each sample, float64 [n], finite; None: no tails.
        size: at most n.
        rng: decides.

    Raises:
        InputError: `size` samples cannot show all values.
    """
    kinds = sorted(set(cells))
    places = {cell: place for place, cell in enumerate(kinds)}
    cell_of = np.array([places[cell] for cell in cells], np.int64)
    pools = [np.flatnonzero(cell_of == place) for place in range(len(kinds))]
    shares = share_out([len(pool) for pool in pools], size, _priority(kinds, size, rng))
    drawn = [pool[rng.permutation(len(pool))[:share]] for pool, share in zip(pools, shares, strict=True)]
    if scores is None:
        return np.sort(np.concatenate(drawn))
    chosen = np.zeros(len(cells), bool)
    held = np.zeros(len(cells), bool)
    chosen[np.concatenate(drawn)] = True
    for pool, share in zip(pools, shares, strict=True):
        _cover_tails(chosen, held, pool, scores, cell_of, share // SWAPPED, rng)
    _cover_tails(chosen, held, np.arange(len(cells)), scores, cell_of, size // SWAPPED, rng)
    return np.flatnonzero(chosen)


def share_out(available: Sequence[int], size: int, priority: Sequence[int]) -> list[int]:
    """Share `size` out in equal parts, none above what is available; what one lacks goes to the others.

    What cannot be shared equally is given one by one in the order of `priority`, which names every place once.
    """
    shares = [0] * len(available)
    left = min(size, sum(available))
    while left:
        open_places = [place for place in priority if shares[place] < available[place]]
        each = left // len(open_places)
        for place in open_places if each else open_places[:left]:
            added = min(max(each, 1), available[place] - shares[place])
            shares[place] += added
            left -= added
    return shares


def values_of(cells: Iterable[Cell]) -> set[tuple[int, str]]:
    """Every value of every stratum, with the stratum's place in a cell."""
    return {placed for cell in set(cells) for placed in enumerate(cell)}


def _priority(kinds: Sequence[Cell], size: int, rng: np.random.Generator) -> list[int]:
    """The order in which cells get what cannot be shared equally."""
    order = [int(place) for place in rng.permutation(len(kinds))]
    if len(kinds) <= size:
        return order
    first: list[int] = []
    missing = values_of(kinds)
    while missing:
        best = max(order, key=lambda place: len(missing & set(enumerate(kinds[place]))))
        first.append(best)
        missing -= set(enumerate(kinds[best]))
    if len(first) > size:
        raise InputError(
            f"size {size}: cannot show all values of the strata, {len(first)} samples can; raise the size to that"
        )
    return list(dict.fromkeys(first + order))


def _cover_tails(
    chosen: NDArray[np.bool_],
    held: NDArray[np.bool_],
    pool: NDArray[np.int64],
    scores: NDArray[np.float64],
    cell_of: NDArray[np.int64],
    most: int,
    rng: np.random.Generator,
) -> None:
    """Swap at most `most` chosen samples for others of their cells, so that both tails of the pool have one.

    A sample of a tail is `held`: no later swap takes it out again.
    """
    ordered = np.sort(scores[pool])
    count = max(1, int(TAIL * len(pool)))
    tails = (scores[pool] <= ordered[count - 1], scores[pool] >= ordered[-count])
    held[pool[(tails[0] | tails[1]) & chosen[pool]]] = True
    for side in rng.permutation(2):
        tail = pool[tails[side]]
        if most == 0 or chosen[tail].any():
            continue
        leaving = pool[chosen[pool] & ~held[pool]]
        coming = tail[np.isin(cell_of[tail], cell_of[leaving])]
        if len(coming) == 0:
            continue
        new = rng.choice(coming)
        chosen[rng.choice(leaving[cell_of[leaving] == cell_of[new]])] = False
        chosen[new] = held[new] = True
        most -= 1
