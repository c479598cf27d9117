"""What a push changed, given what this home's registry and state hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tasks.git.push_plan import PushPlan, is_zero, plan_push

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session import Session
    from tasks.git.repository import Repository
    from tasks.records import Cell


def plan_of(session: Session, repository: Repository, old: str | None, new: str) -> PushPlan:
    """The plan of a push, given what this session's registry and store hold. `old` and `new` are any revisions.

    Raises:
        InputError: a revision is none, or the repository lacks its commit.
    """
    commit = repository.resolve(new)
    before = None
    if old is None:
        before = repository.first_parent(commit)
    elif not is_zero(old):
        before = repository.resolve(old)
    floor = session.policy_floor
    return plan_push(repository, before, commit, known_engines(session), None if floor is None else floor.digest)


def known_engines(session: Session) -> Callable[[Cell], str | None]:
    """Says why an engine needs no work: it is registered, or was converted and did not pass."""
    registered = functools.cache(lambda model: frozenset(session.registry.engines.list_cells(model)))

    def known(cell: Cell) -> str | None:
        if cell in registered(cell.model):
            return "registered already"
        rejected = session.rejected.find(cell)
        return None if rejected is None else f"converted before: verdict {rejected.verdict.outcome.value}"

    return known
