"""Gives a graph that differs from a built one by the values of its weights alone the plan of that one, refitted.

What both share is the graph's structure and all else that the build's key has: together one digest. Under it lies, in
the artifact store, the newest engine that was built, not refitted, and passed the gate. A refitted engine is compared,
timed and gated as any other; where it cannot be had, the engine is built.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.artifact import Artifact
from tasks.backends import backend_of
from tasks.backends.interface import BuildJob, RefitBase
from tasks.declared import Digest, Frozen
from tasks.errors import EnginegateError
from tasks.graphs.onnx_files import short_reason
from tasks.graphs.structure import structure_digest
from tasks.store.digests import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.process.context import StageContext
    from tasks.store.interface import ArtifactStore

REFITTABLE = "refittable"


class PassedBuild(Frozen):
    """An engine that was built to be refitted and passed: its plan, and the graph that it was built from."""

    plan: Artifact
    onnx: Artifact


@dataclass(frozen=True)
class Refit:
    """What came of a refit: the digest of the plan that was refitted, or None and, where it failed, why."""

    base: Digest | None = None
    warnings: tuple[str, ...] = ()


class Graph(Frozen):
    """An ONNX file, with its weights where it says."""

    onnx: Path


class RefitRequest(BuildJob):
    """What the child refits, and for which runtime."""

    runtime: str
    base: RefitBase


def structure_of(context: StageContext, job: BuildJob, key: Mapping[str, object], folder: Path) -> Digest:
    """The digest of what a job has in common with those whose engines it could be given by a refit.

    `key` is the build's cache key. Of it, only the graph's own digest, how the graph was converted, and how often an
    engine was built before may differ.
    """
    graph = context.call_in_child("tasks.stages.refit:structure_in_child", Graph(onnx=job.onnx), str, folder)
    shared = {name: value for name, value in key.items() if name not in {"onnx", "precision", "rebuild"}}
    return digest_json({**shared, "precision": job.precision.value, "structure": graph})


def keep_passed(store: ArtifactStore, structure: Digest, passed: PassedBuild) -> None:
    """Let later versions be refitted from an engine that passed."""
    store.write_record(REFITTABLE, _name(structure), passed.model_dump(mode="json"))


def find_passed(store: ArtifactStore, structure: Digest) -> PassedBuild | None:
    """The engine to refit; None where there is none, or its files are gone."""
    record = store.read_record(REFITTABLE, _name(structure))
    try:
        found = None if record is None else PassedBuild.model_validate(record)
    except ValidationError:
        return None
    return found if found is not None and store.contains(found.plan) and store.contains(found.onnx) else None


def _name(structure: Digest) -> str:
    return structure.removeprefix("sha256:")


def try_refit(
    context: StageContext, job: BuildJob, runtime: str, structure: Digest, graph: Digest, folder: Path
) -> Refit:
    """Put the engine of `job` into its folder by a refit, where an engine of its structure passed.

    One of the very same `graph` is not refitted: that would be the same engine again. The folder is empty where a refit
    failed, by whatever death of the child.
    """
    passed = find_passed(context.store, structure)
    if passed is None or passed.onnx.digest == graph:
        return Refit()
    try:
        plan = context.store.fetch(passed.plan, folder / "base")
        onnx = next(context.store.fetch(passed.onnx, folder / "base-onnx").glob("*.onnx"))
        base = RefitBase(plan=plan, onnx=onnx)
        request = RefitRequest.model_validate({**dict(job), "runtime": runtime, "base": base})
        context.call_in_child("tasks.stages.refit:refit_in_child", request, bool, folder)
    except EnginegateError as error:
        shutil.rmtree(job.plan)
        job.plan.mkdir()
        return Refit(warnings=(f"built, not refitted from {passed.plan.digest}: {short_reason(error)}",))
    return Refit(base=passed.plan.digest)


def structure_in_child(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> str:
    """Child entry: the structure of a Graph."""
    return structure_digest(Graph.model_validate(raw).onnx)


def refit_in_child(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> bool:
    """Child entry: serve a RefitRequest."""
    request = RefitRequest.model_validate(raw)
    backend_of(request.runtime).refit(request, request.base)
    return True
