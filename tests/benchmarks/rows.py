"""The lines of the table that `make bench` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table; `ok` says whether the promise was kept, None where there is none."""

    what: str
    measured: str
    promised: str
    ok: bool | None
