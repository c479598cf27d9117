"""Engines that were converted here and did not pass: kept for whoever overrides their verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.records import Cell, EngineManifest
from tasks.registry.evidence import artifacts_of, find_contradictions
from tasks.store.digests import digest_json

if TYPE_CHECKING:
    from tasks.store.interface import ArtifactStore
    from tasks.store.record_folder import RecordFolder

KIND = "rejected"


@dataclass(frozen=True)
class RejectedEngines:
    """Their manifests in the state folder; their files stay in the artifact store, until that is deleted."""

    state: RecordFolder
    store: ArtifactStore

    def keep(self, manifest: EngineManifest) -> None:
        """Keep the description of an engine without a `pass`."""
        content = manifest.model_dump(mode="json")
        self.state.write_record(KIND, _key(manifest.cell), {"manifest": content, "digest": digest_json(content)})

    def find(self, cell: Cell) -> EngineManifest | None:
        """The description of an engine that did not pass; None where there is none, or it was changed."""
        record = self.state.read_record(KIND, _key(cell))
        try:
            if record is None or record.get("digest") != digest_json(record.get("manifest")):
                return None
            manifest = EngineManifest.model_validate(record["manifest"])
        except (ValidationError, ValueError):
            return None
        return manifest if manifest.cell == cell else None

    def faults(self, manifest: EngineManifest) -> list[str]:
        """Why an engine could not be served, one sentence each: it contradicts itself, or files of it are gone."""
        missing = (role for role, artifact in artifacts_of(manifest).items() if not self.store.contains(artifact))
        return find_contradictions(manifest) + [f"{role}: files are missing in the artifact store" for role in missing]


def _key(cell: Cell) -> str:
    return digest_json({"engine": cell.engine_id}).removeprefix("sha256:")
