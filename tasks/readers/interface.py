"""What a reader of data is asked, what it gives, and what it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.samples.npz import Arrays

UNNAMED = "unnamed_input"
"""An input whose name the data do not say: forward's own name for it is taken."""


@dataclass(frozen=True)
class ReadRequest:
    """What is to be read, and what is known of the model.

    `processor` is the folder of its tokenizer or feature extractor, None where there is none. `columns` gives columns
    other names, `left_out` are those to ignore. `label_numbers` is the model's own table of labels, and `longest` the
    most tokens that it takes, where it says so. Of more samples than `most`, so many are drawn at random. `folder` is
    an empty one for samples that are too many to lie in memory; without it they do.
    """

    path: Path
    processor: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    label_numbers: Mapping[str, int] = field(default_factory=dict)
    longest: int | None = None
    most: int | None = None
    folder: Path | None = None

    @property
    def origin(self) -> str:
        """The data's name, for errors."""
        return self.path.name


@dataclass(frozen=True)
class InputHint:
    """What a reader knows of an input: names of the axes after the samples', what pads it, and why."""

    axes: tuple[str, ...] = ()
    pad: int | float = 0
    why: str = ""


@dataclass(frozen=True)
class Reading:
    """Samples in groups of one shape, each with its inputs and `label`, `group`, `slice.<name>` where there are any.

    `notes` are what is to be told. `labels` is the table of labels that were texts, and `from_model` says whether it is
    the model's own.
    """

    groups: Sequence[Arrays]
    hints: Mapping[str, InputHint] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    from_model: bool = False

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(next(iter(group.values()))) for group in self.groups)


class Reader(Protocol):
    """A form that data come in."""

    formats: str
    """What it takes, in words."""

    def takes(self, path: Path) -> bool:
        """Whether a file or folder is of this form; only names are looked at."""

    def read(self, request: ReadRequest) -> Reading:
        """Read all of it.

        Raises:
            InputError: naming file, field and remedy.
        """
