"""`enginegate upgrade` on the real tiny scorer: what is made, what is said of it, and what stays as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flows.projects import Project

pytestmark = pytest.mark.end_to_end

PRODUCTION = ("upgrade", "--channel", "production", "--target", "cpu")


def upgrade(project: Project, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one engine of the document, and people's text."""
    code, document, text = project.run(*PRODUCTION, *arguments)
    (engine,) = document["engines"]
    return code, engine, text


def channels(project: Project) -> dict[str, Any]:
    return project.run("history", "tiny-scorer", "--target", "cpu")[1]["channels"]


def test_an_engine_is_made_again_beside_the_one_in_production_and_no_channel_moves(
    serving: Project, install: Callable[[str], None]
) -> None:
    before = channels(serving)
    install("99.0")
    code, engine, text = upgrade(serving)
    print(text)
    assert code == 0
