"""A registry with engines of the tiny scorer and a channel that moves, for tests of what a serving host pulls."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.process.child import ignore_progress
from tasks.registry.channels import next_move
from tasks.registry.layout import blob_key, manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.release.pull import Pulled, pull_engine
from tasks.release.rejected import RejectedEngines
from tasks.release.serving_folder import ServingFolder
from tasks.store.local import LocalStore
from tasks.store.record_folder import RecordFolder
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.tiny import SCORER, build_job, cell, lay_out, make_outcome, manifest_of, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore
    from tasks.records import Cell, EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move

PRODUCTION = ChannelAddress("tiny", "cpu", ChannelName.PRODUCTION)
SQUARED = SCORER.replace("score =", "s =") + " score = Mul(s, s)"
FIRST, SECOND, THIRD = "1" * 12, "2" * 12, "3" * 12


@dataclass
class Shop:
    """Where engines are published and promoted, and a host beside it.

    Attributes:
        root: of all folders.
        objects: of the registry; in memory where none are given.
        signing: of who publishes and promotes, and of the host.
    """

    root: Path
    objects: ObjectStore = field(default_factory=MemoryObjects)
    signing: Signing = field(default_factory=Signing)
    trusting: Signing | None = None

    @cached_property
    def store(self) -> LocalStore:
        """The artifact store that engines are published from."""
        return LocalStore(self.root / "store")

    @cached_property
    def registry(self) -> Registry:
        """The registry as those see it who write it."""
        return Registry(self.objects, self.signing)

    @property
    def rejected(self) -> RejectedEngines:
        """What did not pass."""
        return RejectedEngines(RecordFolder(self.root / "state"), self.store)

    @property
    def folder(self) -> ServingFolder:
        """The host's."""
        return ServingFolder(self.root / "host")

    def publish(
        self,
        version: str = FIRST,
        *,
        plan: bytes | None = None,
        target: str = "cpu",
        noise: float = 0.0001,
        **changes: Any,
    ) -> EngineManifest:
        """Register an engine; its plan is no ONNX file where none is given."""
        outcome = make_outcome(
            self.store,
            plan=plan or f"plan {version}".encode(),
            engine=cell(version=version, target=target),
            noise=noise,
        )
        manifest = manifest_of(self.store, outcome, **changes)
        self.registry.engines.publish(manifest, lay_out(self.store, manifest, self.root / f"files-{version}-{target}"))
        return manifest

    def onnx_plan(self, body: str = SCORER) -> bytes:
        """The bytes of a real engine."""
        made = build_job(write_onnx(self.root / "onnx", body), self.root / "built")
        made.plan.mkdir(exist_ok=True)
        OnnxRuntimeBackend().build(made, ignore_progress)
        return (made.plan / "engine.onnx").read_bytes()

    def promote(self, engine: Cell, *, address: ChannelAddress = PRODUCTION, **changes: Any) -> Move:
        """Move the channel to an engine; `changes` replace fields of the move."""
        digest = changes.pop("manifest", None) or self.registry.engines.read_signed(engine).digest

        def decide(channel: Channel) -> Move:
            move = next_move(
                channel,
                kind="promote",
                engine_id=engine.engine_id,
                manifest=digest,
                reason="it is faster",
                override=None,
                who="ann",
            )
            return move.model_copy(update=changes)

        return self.registry.channels.move(address, decide)

    def offer(self, version: str = FIRST, **changes: Any) -> EngineManifest:
        """Publish an engine and promote it."""
        manifest = self.publish(version, **changes)
        self.promote(manifest.cell)
        return manifest

    def pull(self, **options: Any) -> Pulled:
        """Pull to the host, which sees the registry through `trusting` where that is set."""
        registry = Registry(self.objects, self.trusting or self.signing)
        folder = options.pop("folder", self.folder)
        return pull_engine(registry, folder, options.pop("address", PRODUCTION), **{"wait_s": 30, **options})

    def blob(self, digest: str) -> ObjectFile:
        """The object of a file."""
        return ObjectFile(self.objects, blob_key(digest))

    @property
    def channel_file(self) -> ObjectFile:
        """The object of the channel."""
        return ObjectFile(self.objects, PRODUCTION.key)

    def manifest_file(self, version: str) -> ObjectFile:
        """The object of a manifest."""
        return ObjectFile(self.objects, manifest_key(cell(version=version)))


def version_served(root: Path) -> str | None:
    """The version that `current` leads to; None without one. See `version_in`."""
    return _version_at(root / "current")


def version_before(root: Path) -> str | None:
    """The same of `previous`."""
    return _version_at(root / "previous")


def _version_at(link: Path) -> str | None:
    if not link.is_symlink():
        return None
    assert not link.readlink().is_absolute()
    return version_in(link.resolve())


def version_in(engine: Path) -> str:
    """The version of the engine in a folder, all of whose files are read and must have their digests."""
    payload = b64decode(json.loads((engine / "manifest.json").read_bytes())["payload"])
    assert engine.name.endswith(hashlib.sha256(payload).hexdigest()[:12])
    manifest = json.loads(payload)
    smoke = {f"smoke/{name}": manifest["smoke"][name] for name in ("inputs", "reference", "candidate")}
    expected = {
        f"{prefix}/{file['path']}": file["digest"]
        for prefix, artifact in {"plan": manifest["plan"], **smoke}.items()
        for file in artifact["files"]
    }
    found = {
        path.relative_to(engine).as_posix(): f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in engine.rglob("*")
        if path.is_file()
    }
    found.pop("manifest.json")
    found.pop("model.sig", None)
    assert found == expected
    version: str = manifest["cell"]["version"]
    return version


def names_in(root: Path) -> list[str]:
    """What people see in the host's folder."""
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
