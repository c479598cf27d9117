"""How hard races and kill loops are: a little in every run, and as hard as it gets with `pytest --hardship`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Numbers:
    """How much of each.

    Attributes:
        processes: that race for one thing.
        turns: that they share out among them, where each has several.
        stride: from a change that a process is killed at to the next one, but for those that give something a name.
            A file costs a registry 14 changes; 5 shares no factor with them, so that several files meet each kind.
        kills: at random moments, in a loop against one kind of object store, by the kind's name.
        rounds: of one race that is run again and again.
        pushes: of commits at once; some of them are killed.
        stages: after which a command is killed, in the order of a conversion.
        is_hard: whether there are enough of them for what happens only by chance.
    """

    processes: int
    turns: int
    stride: int
    kills: dict[str, int]
    rounds: int
    pushes: int
    stages: tuple[str, ...]
    is_hard: bool


STAGES = ("validation data", "export", "reference", "convert int8", "build int8", "compare int8", "track")
USUAL = Numbers(
    processes=5,
    turns=20,
    stride=5,
    kills={"local": 4, "moto": 2, "radosgw": 2},
    rounds=4,
    pushes=10,
    stages=("compare int8",),
    is_hard=False,
)
HARD = Numbers(
    processes=32,
    turns=200,
    stride=1,
    kills={"local": 50, "moto": 50, "radosgw": 15},
    rounds=50,
    pushes=50,
    stages=STAGES,
    is_hard=True,
)
_chosen = USUAL


def choose(*, hard: bool) -> None:
    """Take the hard numbers or the usual ones, before the modules of tests are imported."""
    global _chosen  # noqa: PLW0603 - one run of pytest, one choice
    _chosen = HARD if hard else USUAL


def numbers() -> Numbers:
    """The numbers of this run."""
    return _chosen
