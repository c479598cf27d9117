"""Decides, from verdicts alone, whether an engine was miscompiled, and how it is built after that.

An engine that fails the gate by its numbers, built from an ONNX file that passes on another runtime by the same rules,
was built wrong: neither the model, nor the conversion, nor the policy is at fault. TensorRT chooses kernels by timing
them, and one of them may be wrong, so that of several builds of one file some pass (README has the numbers of 8.6.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.rebuild_records import MiscompiledBuild, Rebuild
from tasks.records import BuiltEngine, Cell, EngineJob
from tasks.rule_view import deciding_sentence
from tasks.runtimes import RUNTIMES
from validation.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence


def witness_of(job: EngineJob, engine: BuiltEngine, verdict: Verdict) -> EngineJob | None:
    """The job that asks another runtime about the graph of an engine that failed by its numbers; None for any other.

    `verdict` must have been decided without speed-ups. The witness is on this host's CPU, on all of the same data and
    under the same policy: on a part of it, few rules could be decided.
    """
    runtime = RUNTIMES[job.cell.runtime].witness
    if runtime is None or verdict.outcome is not Outcome.FAIL:
        return None
    half = job.typed.half
    typed = half if half is not None and engine.onnx == half.onnx.digest else job.typed
    cell = Cell(
        model=job.cell.model, target="cpu", precision=job.cell.precision, version=job.cell.version, runtime=runtime
    )
    return job.model_copy(update={"cell": cell, "typed": typed.model_copy(update={"half": None}), "again": None})


def is_miscompiled(engine: Verdict, witness: Verdict) -> bool:
    """Whether the engine is wrong and its graph is right: a witness that is not decided settles nothing."""
    return engine.outcome is Outcome.FAIL and witness.outcome is Outcome.PASS


def describe_miscompiled(engine: BuiltEngine, verdict: Verdict, witness: BuiltEngine) -> MiscompiledBuild:
    """What is kept of a build that was wrong."""
    return MiscompiledBuild(
        plan=engine.plan.digest,
        witness=f"{witness.backend.name} {witness.backend.version}",
        sentence=deciding_sentence(verdict),
        tactics=engine.tactics,
    )


def next_rebuild(builds: Sequence[MiscompiledBuild]) -> Rebuild:
    """The build after those that were wrong: away from the tactics of all of them."""
    return Rebuild(attempt=len(builds), avoid=tuple(build.tactics for build in builds if build.tactics is not None))


def miscompiled_in_words(builds: Sequence[MiscompiledBuild], *, is_right: bool) -> str:
    """What came of the builds that were wrong, whether the one after them `is_right` or there is none; or nothing."""
    if not builds:
        return ""
    number = len(builds) + is_right
    times = "once" if number == 1 else f"{number} times"
    if not is_right:
        return f"miscompiled: its ONNX file passes on {builds[-1].witness} where this engine fails; built {times}"
    before, failed = ("the build before it was", "that one failed")
    if len(builds) > 1:
        before, failed = f"the {len(builds)} builds before it were", "they failed"
    return f"built {times}: {before} miscompiled, since its ONNX file passes on {builds[-1].witness} where {failed}"
