"""A group of commands that are imported when they are called, so that its own help answers at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


AS_JSON = "enginegate.json"
"""What click's `meta` knows `--json` by where it stands before the command."""


class Row(NamedTuple):
    """Where a command is, as `module:name`, and its line in the group's help."""

    place: str
    help: str


class LazyGroup(click.Group):
    """A group whose table says where its commands are and what its help says of them."""

    def __init__(self, *arguments: Any, table: Mapping[str, Row], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names in the table's order: that in which a model goes through them."""
        return list(self._table)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command, which is imported now; None where the table has no such name."""
        if name not in self._table:
            return None
        module, _, attribute = self._table[name].place.partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's helps; nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in self._table.items()])
