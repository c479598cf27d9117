"""`enginegate import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from tasks.errors import ExitCode, InputError
from tasks.imports.importing import MOST_SAMPLES, Imported, ImportRequest, import_model, refuse_moved
from tasks.imports.origin import find_origin, slug

if TYPE_CHECKING:
    from flows.session import Session

FILES_SHOWN = 12


@click.command("import")
@click.argument("source")
@click.option("--data", type=FilledPath(), metavar="DATA", help="Samples: a file, or a folder.")
@click.option("--synthetic", type=click.IntRange(min=1), metavar="N", help="Make N samples up, in place of --data.")
@click.option("--name", metavar="NAME", help="The model's name; left out, the source's.")
@click.option("--into", type=FilledPath(), metavar="DIR", help="The folder to make; left out, ./NAME, or ./NAME-model.")
@click.option(
    "--processor",
    type=FilledPath(),
    metavar="DIR",
    help="Folder of the tokenizer or feature extractor; left out, the source's.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=AS",
    help="What a column is: text, text_pair, label, group, slice.<name> or an input; may be repeated.",
)
@click.option("--leave-out", multiple=True, metavar="NAME", help="Ignore this column; may be repeated.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    metavar="N",
    default=MOST_SAMPLES,
    show_default=True,
    help="Of more samples, draw N at random by a seed.",
)
@click.option("--convert", "convert_too", is_flag=True, help="Go on with `enginegate convert`.")
@command_of
def import_(
    session: Session,
    source: str,
    data: Path | None,
    synthetic: int | None,
    name: str | None,
    into: Path | None,
    processor: Path | None,
    columns: tuple[str, ...],
    leave_out: tuple[str, ...],
    most: int,
    convert_too: bool,
) -> tuple[Document, int]:
    """Make a model directory of SOURCE and of data, and say why each line of model.yaml reads as it does.

    SOURCE is a Hugging Face folder, models:/name@alias, a .onnx, .pt2 or TorchScript file, file.py:callable or
    package.module:callable.
    """
    if (data is None) == (synthetic is None):
        raise InputError("--data and --synthetic: give one of them, the data or the number of samples to make up")
    named = name or find_origin(source, leave_out=data).name
    if named != slug(named):
        raise InputError(f"--name {named!r}: a name is of small letters, digits and hyphens; write {slug(named)}")
    request = ImportRequest(
        source=source,
        into=into or _free_folder(named),
        data=data,
        synthetic=synthetic,
        name=named,
        processor=processor,
        columns=_named_columns(columns),
        left_out=frozenset(leave_out),
        most=most,
    )
    made = session.reporter.step(
        "import",
        lambda progress: import_model(session.stage_context(progress), request),
        lambda made: f"{made.validation_samples:,} to validate, {made.calibration_samples:,} to calibrate",
        tells_why=False,
    )
    _show(session, made)
    document = _document(made, made_up=data is None)
    if not convert_too:
        session.reporter.say(f"next: enginegate convert {made.directory}")
        return document, ExitCode.DONE
    from flows.conversion.run import run_conversion  # noqa: PLC0415 - what only imports does not wait for it

    refuse_moved(made)
    report, code = run_conversion(session, made.directory)
    return {**document, "conversion": report.model_dump(mode="json")}, code


def _document(made: Imported, *, made_up: bool) -> Document:
    return {
        "directory": str(made.directory),
        "model": made.name,
        "model_yaml": made.text,
        "files": list(made.files),
        "notes": list(made.notes),
        "validation_samples": made.validation_samples,
        "calibration_samples": made.calibration_samples,
        "synthetic": made_up,
    }


def _free_folder(name: str) -> Path:
    """`name`, or a second choice where that is taken, as by the source itself."""
    return Path(name) if not Path(name).exists() else Path(f"{name}-model")


def _named_columns(columns: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for column in columns:
        name, equals, new = column.rpartition("=")
        if not equals or not name or not new:
            raise InputError(f"--column {column!r}: write NAME=AS, like utterance=text")
        found[name] = new
    return found


def _show(session: Session, made: Imported) -> None:
    say = session.reporter.say
    say()
    say(made.text.rstrip())
    say()
    for note in made.notes:
        session.reporter.remark("!", "note", note)
    folders = dict.fromkeys(path.rpartition("/")[0] or path for path in made.files)
    listed = list(folders)
    more = f" and {len(listed) - FILES_SHOWN} more" if len(listed) > FILES_SHOWN else ""
    session.reporter.remark("✓", "written", f"{made.directory}: {', '.join(listed[:FILES_SHOWN])}{more}")
