"""`enginegate engines`, `engines gc` and `verify`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, command_of
from flows.commands.engine_report import (
    engine_document,
    examination_document,
    examine_engine,
    listed_engines,
    plan_document,
    plan_words,
    removed_words,
    show_engines,
    show_examination,
    show_plan,
    show_removed,
)
from tasks.errors import ExitCode, InputError
from tasks.records import Cell
from tasks.registry.moves import is_model_name
from tasks.registry.retention import moment_ago, plan_removal
from tasks.registry.survey import read_channels, read_manifests, read_rollouts, survey_registry
from tasks.registry.upkeep import remove_loose

if TYPE_CHECKING:
    from flows.session import Session

DAYS = 30
_MOST_DAYS = 36_500


@command_of
def _list(session: Session, model: str | None) -> tuple[Document, int]:
    if model is not None and not is_model_name(model):
        raise InputError(f"--model {model!r}: is no name of a model; it reads as `name` in its model.yaml")
    survey = survey_registry(session.registry.objects, model)
    signed, damaged = read_manifests(session.registry, survey.engines)
    channels, unread = read_channels(session.registry, survey.channels)
    damaged += unread + read_rollouts(session.registry, survey.rollouts)[1]
    found = listed_engines(signed.values(), channels)
    show_engines(session.reporter, found)
    if not signed and not damaged:
        whose = "" if model is None else f" of {model}"
        session.reporter.say(f"no engines{whose} are registered; `enginegate convert DIRECTORY` makes some")
    for message in damaged:
        session.reporter.error(message)
    return {"engines": [engine_document(one) for one in found], "damaged": damaged}, ExitCode.REFUSED if damaged else 0


@click.group(invoke_without_command=True)
@click.option("--model", metavar="NAME", help="Only engines of this model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.pass_context
def engines(context: click.Context, model: str | None, as_json: bool) -> None:
    """List the registered engines: how each did, who signed it, and which channels point at it now.

    One that was registered without a pass, by an override, is red.
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json, model=model)
    elif model is not None or as_json:
        raise click.UsageError(
            f"--model and --json before `{context.invoked_subcommand}` mean the list; write --json after it."
        )


@engines.command(short_help="Remove what nothing holds; dry, if not told --delete.")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(min=1, max=_MOST_DAYS),
    default=DAYS,
    show_default=True,
    metavar="DAYS",
    help="Only what was registered and written before.",
)
@click.option("--delete", is_flag=True, help="Remove it; left out, nothing changes.")
@click.option("--idle", is_flag=True, help="Nothing was written for DAYS, and the clock is right.")
@command_of
def gc(session: Session, days: int, delete: bool, idle: bool) -> tuple[Document, int]:
    """Show, and with --delete remove, what no channel, no history of a channel and no age holds.

    An engine stays that a channel points at or ever pointed at, or that is younger than DAYS; a file stays that such an
    engine needs, or that is younger. Nothing is removed while any channel or manifest cannot be read and verified.
    """
    before = moment_ago(session.registry.objects, timedelta(days=days), idle=idle or not delete)
    plan = session.reporter.step(
        "read the registry",
        lambda progress: plan_removal(session.registry, before, progress),
        plan_words,
        tells_why=False,
    )
    show_plan(session.reporter, plan, days, delete=delete)
    removed = None
    if delete and (plan.engines or plan.files):
        removed = session.reporter.step(
            "remove",
            lambda progress: remove_loose(session.registry, plan, progress),
            removed_words,
            tells_why=False,
        )
        show_removed(session.reporter, removed)
    return plan_document(plan, removed, days), ExitCode.REFUSED if plan.incomplete else 0


@click.command()
@click.argument("engine_ids", nargs=-1, required=True, metavar="ENGINE_ID...")
@command_of
def verify(session: Session, engine_ids: tuple[str, ...]) -> tuple[Document, int]:
    """Re-read registered engines: signature, every digest, and that the verdict follows from the evidence.

    An engine that was registered by an override is red; that is no fault of it.
    """
    found = {}
    for cell in [Cell.parse(engine_id) for engine_id in dict.fromkeys(engine_ids)]:
        found[cell.engine_id] = examine_engine(session, cell)
        show_examination(session.reporter, found[cell.engine_id])
    document = {
        "engines": {engine_id: list(one.faults) for engine_id, one in found.items()},
        "details": {engine_id: examination_document(one) for engine_id, one in found.items()},
    }
    return document, ExitCode.REFUSED if any(one.faults for one in found.values()) else 0
