"""Makes a command of a function: its surroundings, its JSON document, its errors and exit codes."""

from __future__ import annotations

import functools
import json
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

Document = dict[str, Any]
Command = TypeVar("Command", bound="Callable[..., Any]")

EXIT_CODES = {"pass": 0, "fail": 3, "inconclusive": 4}
MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
UNEXPECTED, REFUSED = 1, 5
CHANNELS = ("candidate", "staging", "canary", "production")
"""The values of `tasks.registry.moves.ChannelName`, which takes too long to import for `--help`."""


def command_of(work: Callable[..., tuple[Document, int]]) -> Callable[..., None]:
    """Make a command of a function that takes a session and returns its JSON document and exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
    @functools.wraps(work)
    def command(as_json: bool, **arguments: Any) -> None:
        from flows.console import Reporter  # noqa: PLC0415
        from flows.session import Session  # noqa: PLC0415
        from flows.settings import read_settings  # noqa: PLC0415
        from tasks.errors import EnginegateError  # noqa: PLC0415

        _refuse_blanks()
        reporter = Reporter(to_stderr=as_json)
        try:
            document, code = work(Session(read_settings(), reporter), **arguments)
        except EnginegateError as error:
            reporter.error(str(error))
            document, code = {"error": str(error), "exit_code": error.exit_code}, error.exit_code
        except OSError as error:  # a full disk, a folder that cannot be written
            message = (
                f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; mend that and run again"
            )
            reporter.error(message)
            document, code = {"error": message, "exit_code": UNEXPECTED}, UNEXPECTED
        except Exception as error:  # noqa: BLE001 - with --json, even what nobody expected is one document
            traceback.print_exc()
            reporter.error(f"unexpected: {type(error).__name__}: {error}; please report it with the lines above")
            document, code = {"error": f"{type(error).__name__}: {error}", "exit_code": UNEXPECTED}, UNEXPECTED
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
