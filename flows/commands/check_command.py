"""`enginegate check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, command_of
from flows.console import QuietReporter
from flows.conversion.preflight import MARKS, Preflight
from flows.session import Session
from tasks.checks.remarks import Level, stops_of
from tasks.errors import ExitCode, InputError
from tasks.specs import Precision

if TYPE_CHECKING:
    from tasks.checks.remarks import Remark

MINUTE_S, DAY_S = 60.0, 24 * 3600


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Only this target; may be repeated.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice([precision.value for precision in Precision]),
    help="Only this precision; may be repeated.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True, max=DAY_S),
    default=MINUTE_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest time for which the module may run; `convert` has a limit of its own.",
)
@command_of
def check(
    session: Session, directory: Path, targets: tuple[str, ...], precisions: tuple[str, ...], time_limit: float
) -> tuple[Document, int]:
    """Say what would stop or spoil a conversion of DIRECTORY, all at once and before any long work.

    ✕ stops it, and the command ends with 2; ! does not, and is worth a look. `convert` begins with the same.
    """
    settings = session.settings.model_copy(update={"time_limit_s": min(time_limit, session.settings.time_limit_s)})
    quiet = Session(settings, QuietReporter(to_stderr=True))
    try:
        look = Preflight.begin(quiet, directory, targets=targets, precisions=precisions, only=None)
    except InputError as error:
        remarks, document = list(stops_of("model.yaml", error)), Document()
    else:
        look.examine()
        remarks = list(dict.fromkeys(look.remarks))
        document = {"model": look.plan.directory.spec.name, "version": look.plan.version}
    order = list(dict.fromkeys(remark.subject for remark in remarks))
    remarks.sort(key=lambda remark: order.index(remark.subject))
    stops = sum(remark.level is Level.STOP for remark in remarks)
    for remark in remarks:
        session.reporter.remark(MARKS[remark.level], remark.subject, remark.text)
    if stops:
        session.reporter.say(f"{stops} {'things' if stops > 1 else 'thing'} to correct before a conversion")
    return _document(document, remarks, stops), ExitCode.BAD_INPUT if stops else ExitCode.DONE


def _document(about: Document, remarks: list[Remark], stops: int) -> Document:
    found = [{"subject": one.subject, "level": one.level.value, "text": one.text} for one in remarks]
    return {"ok": not stops, **about, "remarks": found}
