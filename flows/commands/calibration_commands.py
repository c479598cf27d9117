"""`enginegate calibration`: which commands it has."""

from __future__ import annotations

import click

from flows.commands.lazy_group import LazyGroup, Row

COMMANDS = {
    "check": Row("flows.commands.calibration_check:check", "Check that a set is whole, fresh, and like production."),
    "draw": Row("flows.commands.calibration_draw:draw", "Draw a set from a sample of production."),
    "explain": Row(
        "flows.commands.calibration_explain:explain", "Rank the layers of an INT8 engine by the harm they do."
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def calibration() -> None:
    """Check, draw and explain the calibration sets that INT8 is made with."""
