"""Whether a manifest holds together, and whether what it holds is let into a registry: two questions."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from tasks.errors import printable
from tasks.store.digests import artifact_digest, digest_json
from tasks.timings import PytorchForm
from validation.verdict import Outcome, Verdict, decide

if TYPE_CHECKING:
    from tasks.artifact import Artifact
    from tasks.records import EngineManifest
    from validation.policy import Policy

CLOCKS_APART = timedelta(days=1)
"""So far may the clock of the host that signs be ahead of that of the store or of a reader."""


def find_contradictions(manifest: EngineManifest) -> list[str]:
    """Integrity: where a manifest contradicts its digests or the evidence for its verdict, one sentence each."""
    faults = [
        f"{role}: the list of files does not match {artifact.digest}"
        for role, artifact in artifacts_of(manifest).items()
        if artifact_digest(artifact.files) != artifact.digest
    ]
    if manifest.engine_id != manifest.cell.engine_id:
        faults.append(f"engine_id: {manifest.engine_id} is not that of its cell, {manifest.cell.engine_id}")
    if manifest.compared not in {None, manifest.plan.digest}:
        faults.append(f"comparison: is that of plan {manifest.compared}, and the engine's is {manifest.plan.digest}")
    if manifest.policy_digest != policy_digest(manifest.policy):
        faults.append("policy: is not the one of its digest")
    return faults + _verdict_faults(manifest)


def find_objections(manifest: EngineManifest) -> list[str]:
    """Admission: why an engine may not be in a registry, where only a pass may, or what a person overrode."""
    if manifest.verdict.outcome is Outcome.PASS or manifest.override is not None:
        return []
    return [f"verdict: is {manifest.verdict.outcome.value}, and only a pass may be registered"]


def find_future_date(manifest: EngineManifest, stored: datetime | None) -> list[str]:
    """Where a manifest says that it is younger than the object it lies in, which the store dates (None: not known)."""
    created = time_of(manifest.created_at)
    if created is None or stored is None or created <= stored + CLOCKS_APART:
        return []
    since = stored.isoformat(timespec="seconds")
    return [f"created_at: dated in the future: {manifest.created_at}, and the registry has had it since {since}"]


def time_of(text: str) -> datetime | None:
    """A date and time as manifests write them, UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def policy_digest(policy: Policy) -> str:
    """`sha256:…` of a policy's rules and numbers."""
    return digest_json(asdict(policy))


def _without_advice(verdict: Verdict) -> Verdict:
    """The verdict but for how many samples would decide: a later release may count them otherwise."""
    rules = (
        replace(rule, needed=None, needed_at_half=None, sentence="") if rule.outcome is Outcome.INCONCLUSIVE else rule
        for rule in verdict.rules
    )
    return replace(verdict, rules=tuple(rules))


def _verdict_faults(manifest: EngineManifest) -> list[str]:
    precision, verdict = manifest.cell.precision.value, manifest.verdict
    again = decide(
        manifest.policy,
        manifest.comparison,
        precision=precision,
        speedups=verdict.speedups,
        other_pvalues=verdict.other_pvalues,
    )
    if _without_advice(again) != _without_advice(_printable(verdict)):
        return ["verdict: does not follow from the stored comparison under the stored policy"]
    if verdict.speedups is None and manifest.policy.performance_of(precision):
        return ["verdict: was given without the speed-ups that its policy asks for"]
    return _speedup_faults(manifest)


def _printable(verdict: Verdict) -> Verdict:
    """The verdict with sentences as they are made now: older ones may quote names of the data as these are."""
    return replace(
        verdict,
        rules=tuple(replace(rule, sentence=printable(rule.sentence)) for rule in verdict.rules),
        defects=tuple(map(printable, verdict.defects)),
    )


def _speedup_faults(manifest: EngineManifest) -> list[str]:
    """That over the reference is in the benchmark too; that over FP16 takes another engine's."""
    given = (manifest.verdict.speedups or {}).get("speedup_vs_reference")
    if given is None or given.value is None:
        return []
    benchmark, form = manifest.benchmark, PytorchForm.EAGER_FP32
    interval = benchmark.speedup_interval.get(form, {}).get(benchmark.headline_batch)
    if (given.value, given.low, given.high) != (benchmark.headline_speedup, *(interval or (None, None))):
        return ["verdict: was given another speed-up than the stored benchmark measured"]
    return []


def parts_of(manifest: EngineManifest) -> dict[str, Artifact]:
    """The artifacts that a serving host gets, by the folder in the engine's that each goes to."""
    return {
        "plan": manifest.plan,
        "smoke/inputs": manifest.smoke.inputs,
        "smoke/reference": manifest.smoke.reference,
        "smoke/candidate": manifest.smoke.candidate,
    }


def artifacts_of(manifest: EngineManifest) -> dict[str, Artifact]:
    """The artifacts that a manifest refers to, by role."""
    smoke = manifest.smoke
    return {
        "plan": manifest.plan,
        "onnx": manifest.onnx,
        **({} if manifest.half is None else {"onnx for builders that take types": manifest.half}),
        "reference outputs": manifest.reference_outputs,
        "smoke inputs": smoke.inputs,
        "smoke reference": smoke.reference,
        "smoke candidate": smoke.candidate,
    }
