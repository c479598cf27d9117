"""The real server."""

from __future__ import annotations

import pytest

from tasks.serving.triton_server import ServerInstall, find_server


@pytest.fixture(scope="session")
def install() -> ServerInstall:
    """The server that `make triton` made: `make test` makes it first."""
    return find_server()
