"""An empty repository for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tasks.git.repositories import Source, make_source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A repository without commits."""
    return make_source(tmp_path / "repository")
