"""The registry in a local folder, with the layout that S3 has: `blobs/` and `engines/…/manifest.json`."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.blobs import BlobFolder
from tasks.digests import artifact_digest, canonical_json, digest_json
from tasks.errors import InputError, RefusedError
from tasks.records import Artifact, Cell, EngineManifest
from tasks.scratch import ScratchSpace
from tasks.specs import Precision
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Two passing manifests that differ in these alone describe the same engine, whose bytes and policy are the same. A
# benchmark taken again never gives the same times, a commit elsewhere in the repository leaves the version as it is,
# on another processor the last digits of a comparison differ, and a calibration set may be accepted for another reason.
# What was registered first stands.
CIRCUMSTANCES = {
    "created_at", "mlflow_run", "benchmark", "source_commit", "backend", "cache_key", "comparison", "verdict",
    "calibration",
}  # fmt: skip


class LocalRegistry:
    """See the interface. A manifest is written last, by an operation of which one of two writers succeeds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = BlobFolder(root / "blobs")
        self._scratch = ScratchSpace(root / "scratch")

    def _manifest_path(self, cell: Cell) -> Path:
        return self.root / "engines" / cell.model / cell.version / cell.target / cell.precision.value / "manifest.json"

    def publish(self, manifest: EngineManifest, folders: Mapping[str, Path]) -> bool:
        """Copy the files in, then write the manifest; see the interface."""
        faults = find_contradictions(manifest)
        if faults:
            raise RefusedError(f"{manifest.engine_id} is not registered: {'; '.join(faults)}")
        path = self._manifest_path(manifest.cell)
        registered = path.exists()
        if registered:
            self._same_or_refuse(manifest)
        for artifact in artifacts_of(manifest).values():
            if any(self._blobs.check(file) for file in artifact.files):  # also mends what was damaged since
                self._take(artifact, folders[artifact.digest])
        if registered:
            return False
        content = manifest.model_dump(mode="json")
        try:
            envelope = canonical_json({"digest": digest_json(content), "manifest": content})
            self._scratch.write(path, envelope, replace=False)
        except FileExistsError:
            self._same_or_refuse(manifest)
            return False
        return True

    def _take(self, artifact: Artifact, folder: Path) -> None:
        # Copied, never linked: what happens to a file of the store must not reach the registry.
        with self._scratch.folder() as scratch:
            for number, file in enumerate(artifact.files):
                copy = scratch / str(number)
                shutil.copyfile(folder / file.path, copy)
                taken = self._blobs.take(copy, file.path)
                if taken != file:
                    raise RefusedError(f"{file.path} should be {file.digest} but is {taken.digest}; convert again")

    def _same_or_refuse(self, manifest: EngineManifest) -> None:
        known = self.read_manifest(manifest.cell).model_dump(mode="json", exclude=CIRCUMSTANCES)
        new = manifest.model_dump(mode="json", exclude=CIRCUMSTANCES)
        differing = sorted(field for field in new if new[field] != known[field])
        if differing:
            raise RefusedError(
                f"{manifest.engine_id} is registered already with other content ({', '.join(differing)} differ);"
                " a registered engine never changes: convert a new version of the model, or keep the registered one"
            )

    def list_cells(self) -> list[Cell]:
        """Find every manifest; see the interface."""
        cells = []
        for path in (self.root / "engines").glob("*/*/*/*/manifest.json"):
            model, version, target, precision = path.parent.relative_to(self.root / "engines").parts
            with suppress(ValueError):  # a folder that no publisher made
                cells.append(Cell(model=model, version=version, target=target, precision=Precision(precision)))
        return sorted(cells, key=lambda cell: cell.engine_id)

    def read_manifest(self, cell: Cell) -> EngineManifest:
        """Read and check one manifest; see the interface."""
        path = self._manifest_path(cell)
        try:
            envelope = json.loads(path.read_bytes())
            manifest = EngineManifest.model_validate(envelope["manifest"])
            unchanged = digest_json(envelope["manifest"]) == envelope.get("digest")
        except FileNotFoundError:
            raise InputError(f"{cell.engine_id} is not registered; `enginegate engines` lists what is") from None
        except (ValueError, KeyError, TypeError, ValidationError):
            raise RefusedError(
                f"{cell.engine_id}: its manifest is damaged; remove {path} and convert the model again"
            ) from None
        if not unchanged or manifest.cell != cell:
            raise RefusedError(f"{cell.engine_id}: its manifest was changed after it was registered; do not use it")
        return manifest

    def verify(self, cell: Cell) -> list[str]:
        """Re-read an engine; see the interface."""
        try:
            manifest = self.read_manifest(cell)
        except RefusedError as error:
            return [str(error)]
        faults = find_contradictions(manifest)
        for role, artifact in artifacts_of(manifest).items():
            for file in artifact.files:
                fault = self._blobs.check(file)
                if fault is not None:
                    faults.append(f"{role}: {file.path} should have digest {file.digest}, but {fault}")
        return faults


def find_contradictions(manifest: EngineManifest) -> list[str]:
    """What in a manifest contradicts itself or forbids it a place in a registry, one sentence each."""
    faults = [
        f"{role}: the list of files does not match {artifact.digest}"
        for role, artifact in artifacts_of(manifest).items()
        if artifact_digest(artifact.files) != artifact.digest
    ]
    if manifest.engine_id != manifest.cell.engine_id:
        faults.append(f"engine_id: {manifest.engine_id} is not that of its cell, {manifest.cell.engine_id}")
    faults += _verdict_faults(manifest)
    if manifest.verdict.outcome is not Outcome.PASS:
        faults.append(f"verdict: is {manifest.verdict.outcome.value}, and only a pass may be registered")
    return faults


def _verdict_faults(manifest: EngineManifest) -> list[str]:
    precision, verdict = manifest.cell.precision.value, manifest.verdict
    again = decide(
        manifest.policy,
        manifest.comparison,
        precision=precision,
        speedups=verdict.speedups,
        other_pvalues=verdict.other_pvalues,
    )
    if again != verdict:
        return ["verdict: does not follow from the stored comparison under the stored policy"]
    if verdict.speedups is None and manifest.policy.performance_of(precision):
        return ["verdict: was given without the speed-ups that its policy asks for"]
    return []


def artifacts_of(manifest: EngineManifest) -> dict[str, Artifact]:
    """The artifacts that a manifest refers to, by role."""
    return {"plan": manifest.plan, "onnx": manifest.onnx, "reference outputs": manifest.reference_outputs}
