"""Entries of child processes that fail at a chosen point, without the seconds that torch takes to import."""

import os
import time
from collections.abc import Callable
from typing import Any

from tasks.declared import Frozen


class Nothing(Frozen):
    """Request and reply without content."""


def die_while_loading(_request: dict[str, Any], progress: Callable[[int, int], None]) -> Nothing:
    progress(0, 2)
    os._exit(7)


def hang_while_loading(_request: dict[str, Any], progress: Callable[[int, int], None]) -> Nothing:
    progress(0, 2)
    time.sleep(600)
    return Nothing()


def die_before_loading(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Nothing:
    os._exit(7)


def die_after_loading(_request: dict[str, Any], progress: Callable[[int, int], None]) -> Nothing:
    progress(0, 2)
    progress(1, 2)
    os._exit(7)
