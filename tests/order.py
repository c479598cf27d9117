"""The order of tests: files that take longest first, dealt out to workers in the way of pytest-xdist's worksteal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

# From the longest down, as `pytest --durations=0` told. What is not named here takes a few seconds at most.
LONGEST = (
    "tests/flows/conversion/test_end_to_end.py",
    "tests/tasks/stages/test_convert.py",
    "tests/tasks/stages/test_export.py",
    "tests/examples/test_calibration_sets.py",
    "tests/examples/test_small_examples.py",
    "tests/tasks/torch_side/test_user_modules.py",
    "tests/flows/runners/test_runners.py",  # begins with what test_end_to_end made, as the next two do
    "tests/flows/commands/test_calibration_commands.py",
    "tests/flows/commands/test_commit_commands.py",
    "tests/flows/conversion/test_checked_calibration.py",
    "tests/tasks/release/test_pull.py",
    "tests/tasks/release/test_hardship.py",
    "tests/flows/promotion/test_promote_flow.py",
    "tests/flows/pushes/test_commit_conversion.py",
    "tests/tasks/objects/test_faults.py",
    "tests/tasks/registry/test_publishing.py",
    "tests/validation/test_default_policy.py",
)


def longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The items, file by file, so that each worker begins with long ones.

    worksteal gives each worker an equal share of the list, one piece after the other, and lets an idle worker take the
    last half of what another still has: long files at the front of a piece stay whole, with their module's fixtures.
    """
    files = _by_file(items)
    long = [files.pop(name) for name in LONGEST if name in files]
    short = [item for file in files.values() for item in file]
    pieces: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, file in enumerate(long):
        turn, place = divmod(number, workers)
        pieces[place if turn % 2 == 0 else workers - 1 - place].extend(file)
    left = len(items)
    for number, piece in enumerate(pieces):
        room = max(0, left // (workers - number) - len(piece))
        piece.extend(short[:room])
        del short[:room]
        left -= len(piece)
    return [item for piece in pieces for item in piece] + short


def _by_file(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    return files
