"""Makes a command of a function: its surroundings, its JSON document, its errors and exit codes."""

from __future__ import annotations

import functools
import json
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flows.commands.lazy_group import AS_JSON
from flows.console import Reporter
from flows.session import Session
from flows.settings import read_settings
from tasks.errors import EnginegateError, ExitCode
from tasks.objects.location import S3
from tasks.registry.moves import ChannelName

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

Document = dict[str, Any]
Command = TypeVar("Command", bound="Callable[..., Any]")

CHANNEL = click.Choice([channel.value for channel in ChannelName])
"""A channel, by its name."""


def command_of(work: Callable[..., tuple[Document | BaseModel, int]]) -> Callable[..., None]:
    """Make a command of a function that takes a session and returns its JSON document and exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
    @functools.wraps(work)
    def command(as_json: bool, **arguments: Any) -> None:
        _refuse_blanks()
        as_json = as_json or click.get_current_context().meta.get(AS_JSON, False)
        reporter = Reporter(to_stderr=as_json)
        message = ""
        try:
            found, code = work(Session(read_settings(), reporter), **arguments)
            document = found if isinstance(found, dict) else found.model_dump(mode="json")
        except EnginegateError as error:
            message, code = str(error), error.exit_code
        except OSError as error:  # a full disk, a folder that cannot be written
            place = f": {error.filename}" if error.filename else ""
            message, code = f"{error.strerror or error}{place}; correct that and run again", ExitCode.UNEXPECTED
        except Exception as error:  # noqa: BLE001 - with --json, even what nobody expected is one document
            traceback.print_exc()
            message, code = f"unexpected: {type(error).__name__}: {error}; please report it", ExitCode.UNEXPECTED
        if message:
            reporter.error(message)
            document = {"error": message, "exit_code": code}
        if as_json:
            click.echo(json.dumps(document, indent=2))
        raise SystemExit(code)

    return command


def _refuse_blanks() -> None:
    # What an unset variable of a shell gives is no reason, no name and no engine.
    context = click.get_current_context()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and not text.strip() for text in texts):
            raise click.BadParameter("is blank; give it a text, or leave it out.", context, parameter)


class FilledPath(click.Path):
    """A path that is not empty: click takes an empty one for the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error where it is empty."""
        if value == "":
            self.fail("is empty; name a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


class SampleAddress(FilledPath):
    """A file or folder of samples, or `s3://bucket/prefix`, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or the address."""
        return value if str(value).startswith(S3) else super().convert(value, param, ctx)


def model_option(otherwise: str) -> Callable[[Command], Command]:
    """The option `--model`, a model directory; `otherwise` says which it is where it is left out."""
    text = f"The model directory; left out, {otherwise}."
    return click.option("--model", type=FilledPath(), metavar="DIRECTORY", help=text)
