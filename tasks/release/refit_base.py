"""Lets a refit begin at a registered engine, on a host whose artifact store does not hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import RefusedError
from tasks.objects.files import writing_to
from tasks.stages.refit import PassedBuild, find_passed, keep_passed
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.process.context import StageContext
    from tasks.records import Cell
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry


def take_registered(context: StageContext, registry: Registry, cell: Cell) -> str | None:
    """Fetch the newest registered engine of another version that was built to be refitted; return its id.

    Its manifest is verified as for any other use, and its files against their digests. None where there is no such
    engine, or the store has one of the same structure.

    Raises:
        RefusedError: a file of it is missing or was changed.
    """
    found = max(_built_to_be_refitted(registry, cell), key=lambda signed: signed.dated, default=None)
    newest = None if found is None else found.manifest
    if newest is None or newest.structure is None or find_passed(context.store, newest.structure) is not None:
        return None
    with context.store.scratch() as folder, writing_to(folder):
        for name, artifact in (("plan", newest.plan), ("onnx", newest.onnx)):
            registry.engines.fetch(artifact, folder / name, context.on_progress)
            context.store.put(folder / name)
    keep_passed(context.store, newest.structure, PassedBuild(plan=newest.plan, onnx=newest.onnx))
    return newest.engine_id


def _built_to_be_refitted(registry: Registry, cell: Cell) -> Iterator[SignedManifest]:
    for other in registry.engines.list_cells(cell.model):
        if (other.place, other.precision) != (cell.place, cell.precision) or other == cell:
            continue
        try:
            signed = registry.engines.read_signed(other)
        except RefusedError:  # not to be trusted, so not to be begun at
            continue
        manifest, passed = signed.manifest, signed.manifest.verdict.outcome is Outcome.PASS
        if passed and not signed.faults and manifest.structure is not None and manifest.refitted_from is None:
            yield signed
