"""`enginegate plan`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.console import short_commit
from flows.pushes.planning import plan_of
from tasks.errors import printable
from tasks.git.repository import Repository
from tasks.model.toolchain import toolchain
from tasks.store.digests import digest_json

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session
    from tasks.git.push_plan import ModelChange, PushPlan

SHOWN_PATHS = 5
KIND_MARKS = {"new": "→", "changed": "→", "moved": "✓", "same": "✓", "removed": "-", "broken": "✕"}


@click.command()
@click.argument("repository", type=FilledPath())
@click.option("--to", "new", required=True, metavar="NEW", help="The pushed commit: an id, a branch or a tag.")
@click.option(
    "--from",
    "old",
    metavar="OLD",
    help="The commit before; left out, NEW's first parent. Zeros, as git sends for a new branch: all models are new.",
)
@command_of
def plan(session: Session, repository: Path, new: str, old: str | None) -> tuple[Document, int]:
    """Say which models a push to REPOSITORY changed in effect, and which engines that makes necessary.

    Only git's objects are read: nothing is checked out or run. Engines that this home's registry or store know already
    need no work. A version holds the releases of torch, onnx and the other tools that are installed here, so plan where
    conversions run. A model that is broken is told of, and no error: nothing is converted here.
    """
    with closing(Repository(repository)) as opened:
        found = plan_of(session, opened, old, new)
    show_plan(session, found)
    return plan_document(found), 0


def show_plan(session: Session, found: PushPlan) -> None:
    """Print a plan for people."""
    say = session.reporter.say
    old = "nothing" if found.old is None else short_commit(found.old)
    forced = ", which does not build on it (a forced push)" if found.forced else ""
    say(f"from {old} to {short_commit(found.new)}{forced}")
    if found.models:
        rows = [[printable(cell) for cell in _row(model)] for model in found.models]
        session.reporter.table(["", "model", "directory", "version", "to make", "there already", "why"], rows)
    for model in found.models:
        for line in (model.broken or "").splitlines():
            session.reporter.marked(f"✕ {printable(f'{model.directory or chr(46)}: {line}')}")
        for line in model.left_out:
            session.reporter.marked(f"! {printable(f'{model.directory or chr(46)}: {line}')}")
    if found.without_effect:
        shown = ", ".join(printable(path) for path in found.without_effect[:SHOWN_PATHS])
        more = len(found.without_effect) - SHOWN_PATHS
        say(f"without effect: {shown}{f' and {more} more' if more > 0 else ''}")
    none = "no other models" if found.models else "no models"
    say(f"{found.unchanged} of the models unchanged" if found.unchanged else none)


def _row(model: ModelChange) -> list[str]:
    make = [cell for cell in model.cells if cell.needed]
    rest = [cell for cell in model.cells if not cell.needed]
    held = [f"{cell.cell.target} {cell.cell.precision.value} ({cell.reason})" for cell in rest]
    return [
        KIND_MARKS[model.kind.value],
        model.name or "-",
        model.directory or ".",
        model.version or "-",
        ", ".join(f"{cell.cell.target} {cell.cell.precision.value}" for cell in make) or "-",
        ", ".join(held) or "-",
        _why(model),
    ]


def _why(model: ModelChange) -> str:
    return model.reason if model.kind.value == "changed" else f"{model.kind.value}: {model.reason}"


def plan_document(found: PushPlan) -> Document:
    """The JSON document of a plan; directories and paths are relative to the repository."""
    return {
        "from": found.old,
        "to": found.new,
        "forced": found.forced,
        "toolchain": {"digest": digest_json(toolchain()), "releases": toolchain()},
        "models": [_model_document(model) for model in found.models],
        "broken": [model.directory or "." for model in found.models if model.broken],
        "unchanged": found.unchanged,
        "without_effect": list(found.without_effect),
    }


def _model_document(model: ModelChange) -> Document:
    cells = [
        {"engine_id": one.cell.engine_id, "target": one.cell.target, "precision": one.cell.precision.value}
        | {"needed": one.needed, "reason": one.reason}
        for one in model.cells
    ]
    return {
        "kind": model.kind.value,
        "model": model.name,
        "directory": model.directory or ".",
        "version": model.version,
        "reason": model.reason,
        "broken": model.broken,
        "needs_work": model.needs_work,
        "cells": cells,
        "left_out": list(model.left_out),
        "paths": list(model.paths),
    }
