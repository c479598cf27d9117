"""Frozen models of builds that are made again: why, with which kernels, and what was wrong with the one before."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.artifact import Artifact
from tasks.declared import Digest, Frozen

TACTICS_FILE = "tactics.json"
"""In the artifact of a build's tactics: a `TacticList`."""
LONGEST_AGAIN = 2000
"""Characters of a reason for making an engine again."""


class Discard(Frozen):
    """Why an engine's cached outcome was thrown away, by whom (None: not said) and when (UTC)."""

    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_AGAIN)]
    who: str | None
    when: str


class Tactic(Frozen):
    """What a layer of a plan computes with: its kernel's name, and the tactic's number, as `0x…`.

    Either is empty where the runtime does not tell it: of a layer that its inner compiler made, say.
    """

    plan: str
    layer: str
    kernel: str = ""
    value: str = ""


class TacticList(Frozen):
    """The content of a tactics file. `edited` says that the timing cache beside it is one of the editable kind."""

    tactics: tuple[Tactic, ...]
    edited: bool = False


class Rebuild(Frozen):
    """A build after `attempt` builds that were wrong; the tactics of those, in `avoid`, are not to be chosen again."""

    attempt: Annotated[int, Field(ge=1)]
    avoid: tuple[Artifact, ...] = ()


class MiscompiledBuild(Frozen):
    """A build that failed the gate where its ONNX file passes on another runtime, `witness`, by the same rules.

    `plan` is the digest of the engine, `tactics` what it was made of, where that is known, `sentence` how it failed.
    """

    plan: Digest
    witness: str
    sentence: str
    tactics: Artifact | None = None
