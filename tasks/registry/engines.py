"""Engines in a registry: written once, and checked on the way in and out.

Files lie under their digests, and the manifest is written last: before it there is no engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.errors import InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.records import Cell, EngineManifest
from tasks.registry.conditions import require_conditions
from tasks.registry.evidence import (
    artifacts_of,
    find_contradictions,
    find_future_date,
    find_objections,
    parts_of,
    time_of,
)
from tasks.registry.layout import ENGINES, blob_key, cell_at, manifest_key, resigned_key, resigned_keys
from tasks.registry.model_signature import MODEL_SIGNATURE
from tasks.store.digests import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.artifact import Artifact, ArtifactFile
    from tasks.objects.interface import ObjectStore
    from tasks.registry.signing import Signature, Signed, Signing

# Two passing manifests that differ in these alone describe the same engine, whose bytes and policy are the same. A
# benchmark taken again never gives the same times, a commit elsewhere in the repository leaves the version as it is,
# on another processor the last digits of a comparison differ, and a calibration set may be accepted for another reason.
# Older releases did not name the data, which the version covers. What was registered first stands.
CIRCUMSTANCES = {
    "created_at", "mlflow_run", "benchmark", "source_commit", "backend", "cache_key", "comparison", "verdict",
    "compared", "calibration", "smoke", "who", "policy_origin", "policy_floor", "miscompiled", "again",
    "data", "fresh",
    "structure", "refitted_from",
}  # fmt: skip


_BUNDLE = "modelSignature"


@dataclass(frozen=True)
class SignedManifest:
    """A manifest, the digest of its document, who signed it, and its envelope as it was read.

    `stored` is when the registry's store says that it was written; None where it lies in no registry.
    """

    manifest: EngineManifest
    digest: str
    signature: Signature
    envelope: bytes = b""
    stored: datetime | None = None

    @property
    def faults(self) -> list[str]:
        """Why it may not be in a registry or be served, one sentence each: none if all is well."""
        future = find_future_date(self.manifest, self.stored)
        return find_contradictions(self.manifest) + find_objections(self.manifest) + future

    @property
    def dated(self) -> datetime:
        """When it was made (UTC): a signer's clock alone makes none younger than the store says."""
        known = [each for each in (time_of(self.manifest.created_at), self.stored) if each is not None]
        return min(known, default=datetime.min.replace(tzinfo=timezone.utc))


class Engines:
    """The engines of a registry."""

    def __init__(self, objects: ObjectStore, signing: Signing) -> None:
        self._objects, self._signing = objects, signing

    def publish(
        self,
        manifest: EngineManifest,
        folders: Mapping[str, Path],
        on_progress: Callable[[int, int], None] = ignore_progress,
    ) -> bool:
        """Register an engine: its files, then its manifest. Return False if this very engine is registered already.

        Of an engine that is there, files that were damaged since are mended.

        Args:
            manifest: of the engine.
            folders: the files of each artifact of the manifest, by the artifact's digest.
            on_progress: told how many bytes of a file have arrived, and its size, file by file.

        Raises:
            RefusedError: the verdict is no pass and there is no override, a file does not match its digest, or the
                engine id is taken by an engine of other content.
        """
        faults = find_contradictions(manifest) + find_objections(manifest)
        faults += find_future_date(manifest, self._objects.now())
        if faults:
            raise RefusedError(f"{manifest.engine_id} is not registered: {'; '.join(faults)}")
        registered = self.has(manifest.cell)
        kept = self._same_or_refuse(manifest) if registered else manifest
        sealed = self._seal(manifest, manifest.model_dump(mode="json"))  # before anything is written
        require_conditions(self._objects)
        self._give_all(kept, folders, on_progress)
        if registered:
            return False
        if self._objects.create(manifest_key(manifest.cell), sealed):
            # Files that nothing named until now may have been removed as such meanwhile.
            if self.missing_files(manifest):
                self._give_all(manifest, folders, on_progress)
            return True
        self._same_or_refuse(manifest)
        return False

    def _seal(self, manifest: EngineManifest, document: dict[str, Any]) -> bytes:
        """A manifest's envelope; the signature of the engine's files lies in it, since both are written at once."""
        bundle = self._signing.sign_model(manifest.engine_id, _host_files(manifest))
        return self._signing.seal("manifest", document, **({} if bundle is None else {_BUNDLE: bundle}))

    def model_signature(self, engine: SignedManifest) -> bytes | None:
        """Content of the engine's model.sig; None where no key signed, or an older release registered it.

        Raises:
            RefusedError: it is not about the engine's files, or not signed by a trusted key where a trust root is set.
        """
        bundle = json.loads(engine.envelope).get(_BUNDLE)
        if bundle is None:
            return None
        manifest, what = engine.manifest, f"{engine.manifest.engine_id}: its {MODEL_SIGNATURE}"
        self._signing.require_model(bundle, manifest.model_dump(mode="json"), _host_files(manifest), what)
        return canonical_json(bundle)

    def _give_all(
        self, manifest: EngineManifest, folders: Mapping[str, Path], on_progress: Callable[[int, int], None]
    ) -> None:
        for artifact in artifacts_of(manifest).values():
            if artifact.digest in folders:
                self._give(artifact, folders[artifact.digest], on_progress)

    def _give(self, artifact: Artifact, folder: Path, on_progress: Callable[[int, int], None]) -> None:
        for file in artifact.files:
            key, source = blob_key(file.digest), folder / file.path
            if self._objects.upload(key, source, file.digest, on_progress) or self._fault(file) is None:
                continue
            self._objects.delete(key)  # it was damaged since
            self._objects.upload(key, source, file.digest, on_progress)

    def _same_or_refuse(self, manifest: EngineManifest) -> EngineManifest:
        """The manifest that is registered under this engine id."""
        registered = self.read_manifest(manifest.cell)
        known = registered.model_dump(mode="json", exclude=CIRCUMSTANCES)
        new = manifest.model_dump(mode="json", exclude=CIRCUMSTANCES)
        differing = sorted(field for field in new if new[field] != known.get(field))
        if differing:
            raise RefusedError(
                f"{manifest.engine_id} is registered already with other content ({', '.join(differing)} differ);"
                " a registered engine never changes: convert a new version of the model, or keep the registered one"
            )
        return registered

    def list_cells(self, model: str | None = None) -> list[Cell]:
        """All engines, or those of a model, sorted by engine id; their manifests are not read yet."""
        listed = self._objects.list(ENGINES if model is None else f"{ENGINES}{model}/")
        cells = [cell for entry in listed if (cell := cell_at(entry.key)) is not None]
        return sorted(cells, key=lambda cell: cell.engine_id)

    def read_manifest(self, cell: Cell) -> EngineManifest:
        """The manifest of one engine; see `read_signed`."""
        return self.read_signed(cell).manifest

    def read_signed(self, cell: Cell) -> SignedManifest:
        """The manifest of one engine, the digest of its document, and who signed it.

        Raises:
            InputError: there is no such engine.
            RefusedError: the manifest is damaged, another engine's, or not signed by a trusted key where a trust root
                is set.
        """
        opened, envelope, stored = self._open(cell)
        try:
            manifest = EngineManifest.model_validate(opened.document)
        except ValidationError:
            raise RefusedError(
                f"{cell.engine_id}: its manifest is of another release of enginegate, or damaged; convert the model"
                " again"
            ) from None
        if manifest.cell != cell:
            raise RefusedError(f"{cell.engine_id}: its manifest is that of {manifest.engine_id}; do not use it")
        return SignedManifest(manifest, opened.digest, opened.signature, envelope, stored)

    def _open(self, cell: Cell) -> tuple[Signed, bytes, datetime | None]:
        """The manifest and its envelope: its own, or where no trusted key signed that, one that was signed since.

        The time is that at which the store has its own, whoever signed it since.
        """
        what = f"{cell.engine_id}: its manifest"
        found = self._objects.read(manifest_key(cell))
        if found is None:
            raise InputError(f"{cell.engine_id} is not registered; `enginegate engines` lists what is")
        opened = self._signing.unseal("manifest", found.content, what)
        if opened.signature.verified != ():
            return opened, found.content, found.modified
        for entry in self._objects.list(resigned_keys(cell)):
            later = self._objects.read(entry.key)
            if later is None:
                continue
            try:
                resigned = self._signing.unseal("manifest", later.content, f"{cell.engine_id}: {entry.key}")
            except RefusedError:  # whoever may add an object must not lock an engine that another one vouches for
                continue
            if resigned.digest == opened.digest and resigned.signature.verified:
                return resigned, later.content, found.modified
        opened.signature.require_trusted(what)
        return opened, found.content, found.modified

    def resign(self, engine: SignedManifest) -> None:
        """Put the same manifest beside an engine's own, signed by the key that signs here.

        Raises:
            RefusedError: no key signs here, or not one that is trusted for it.
        """
        document = self._signing.unseal("manifest", engine.envelope, "it").document
        sealed = self._seal(engine.manifest, document)
        opened = self._signing.open("manifest", sealed, f"{engine.manifest.engine_id}: its manifest")
        if opened.digest != engine.digest or not opened.signature.claimed:
            raise RefusedError(f"{engine.manifest.engine_id}: cannot be signed anew; set ENGINEGATE_SIGNING_KEY")
        require_conditions(self._objects)
        self._objects.create(resigned_key(engine.manifest.cell, opened.signature.claimed[0]), sealed)
        self.read_signed(engine.manifest.cell)  # something else may have lain there

    def has(self, cell: Cell) -> bool:
        """Whether an engine is registered; its manifest is not read."""
        return self._objects.size(manifest_key(cell)) is not None

    def missing_files(self, manifest: EngineManifest) -> list[str]:
        """The files of an engine that are not there with their sizes; their bytes are not read."""
        return [
            f"{role}: {file.path}"
            for role, artifact in artifacts_of(manifest).items()
            for file in artifact.files
            if self._objects.size(blob_key(file.digest)) != file.size_bytes
        ]

    def verify(self, cell: Cell, on_progress: Callable[[int, int], None] = ignore_progress) -> list[str]:
        """Re-read an engine; return what is wrong with it, one sentence each: none if all is well.

        Checks the manifest's signature, digest and date, every file's digest and that the verdict follows from the
        stored comparison, the speed-ups and other engines' p-values that it was given with, under the stored policy.

        `on_progress` is told how many bytes of a file were read, and its size, file by file.

        Raises:
            InputError: there is no such engine.
        """
        try:
            signed = self.read_signed(cell)
        except RefusedError as error:
            return [str(error)]
        faults = signed.faults
        try:
            self.model_signature(signed)
        except RefusedError as error:
            faults.append(str(error))
        for role, artifact in artifacts_of(signed.manifest).items():
            faults += [f"{role}: {fault}" for file in artifact.files if (fault := self._fault(file, on_progress))]
        return faults

    def _fault(self, file: ArtifactFile, on_progress: Callable[[int, int], None] = ignore_progress) -> str | None:
        """What is wrong with a file, all of which is read."""
        try:
            self._objects.check(blob_key(file.digest), file.digest, _within(file, on_progress))
        except RefusedError as error:
            return f"{file.path}: {error}"
        return None

    def fetch(self, artifact: Artifact, folder: Path, on_progress: Callable[[int, int], None]) -> None:
        """Write the files of an artifact into `folder`, each checked against its digest.

        Raises:
            RefusedError: one is missing or was changed.
        """
        for file in artifact.files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._objects.download(blob_key(file.digest), path, file.digest, _within(file, on_progress))


def _host_files(manifest: EngineManifest) -> dict[str, str]:
    """The digests of the files that a host gets, by their path in the engine's folder."""
    return {f"{to}/{file.path}": file.digest for to, part in parts_of(manifest).items() for file in part.files}


def _within(file: ArtifactFile, on_progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Progress that ends a transfer of more bytes than the file has: a swapped object must not fill the disk."""

    def watch(done: int, total: int) -> None:
        if max(done, total) > file.size_bytes:
            raise RefusedError(
                f"{blob_key(file.digest)} should have {file.size_bytes:,} bytes, but has {total:,}; it was damaged or"
                " swapped: publish the engine again"
            )
        on_progress(done, total)

    return watch
