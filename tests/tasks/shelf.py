"""A registry with engines of the tiny scorer in it, for tests of what moves its channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.objects.folder import LocalObjects
from tasks.process.context import StageContext
from tasks.registry.channels import next_move
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.release.publish import publish_engine
from tasks.release.rejected import RejectedEngines
from tasks.store.local import LocalStore
from tasks.store.record_folder import RecordFolder
from tests.tasks.damage import ObjectFile
from tests.tasks.tiny import VERSION, cell, make_outcome, manifest_of, timed_at

if TYPE_CHECKING:
    from tasks.objects.interface import ObjectStore
    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import Move

FAILING = 0.3
PASSING = 0.0001
FAST, SLOW, BAD = (f"tiny-cpu-{precision}@{VERSION}" for precision in ("fp16", "fp32", "int8"))


def address_of(name: str) -> ChannelAddress:
    """The channel of the tiny scorer on the CPU."""
    return ChannelAddress("tiny", "cpu", ChannelName(name))


class Shelf:
    """The registry, in a folder or in memory, and the artifact store that its engines come from."""

    def __init__(self, objects: Path | ObjectStore, context: StageContext, signing: Signing | None = None) -> None:
        self.objects = LocalObjects(objects) if isinstance(objects, Path) else objects
        self.context = context
        self.rejected = RejectedEngines(RecordFolder(context.store.root.parent / "state"), context.store)
        self.registry = Registry(self.objects, signing or Signing())

    def reopened(self) -> Shelf:
        """The same registry, for somebody who has not read it yet."""
        return Shelf(self.objects, self.context)

    def describe(
        self, precision: str, *, version: str = VERSION, p50_ms: float = 4.0, noise: float = PASSING, **changes: Any
    ) -> EngineManifest:
        """An engine's manifest, its files in the artifact store; noise `FAILING` makes it fail."""
        engine = cell(precision, version)
        outcome = make_outcome(self.context.store, noise=noise, plan=engine.engine_id.encode(), engine=engine)
        assert outcome.benchmark
        benchmark = timed_at(outcome.benchmark, p50_ms)
        return manifest_of(self.context.store, outcome, **({"benchmark": benchmark} | changes))

    def register(self, precision: str, **options: Any) -> SignedManifest:
        """Register an engine; see `describe`."""
        manifest = self.describe(precision, **options)
        publish_engine(self.context, self.registry, manifest)
        return self.registry.engines.read_signed(manifest.cell)

    def keep_out(self, precision: str, **options: Any) -> EngineManifest:
        """Keep an engine that failed in the artifact store, as a conversion does."""
        manifest = self.describe(precision, noise=FAILING, **options)
        self.rejected.keep(manifest)
        return manifest

    def point(self, name: str, engine: SignedManifest, **changes: Any) -> Move:
        """Move a channel without asking for any rule."""

        def decide(channel: Channel) -> Move:
            move = next_move(
                channel,
                kind="promote",
                engine_id=engine.manifest.engine_id,
                manifest=engine.digest,
                reason="pointed by hand",
                override=None,
                who="bob",
            )
            return move.model_copy(update=changes)

        return self.registry.channels.move(address_of(name), decide)

    def channel(self, name: str) -> Channel:
        """A channel as it is now."""
        return self.registry.channels.read(address_of(name))

    def engine_at(self, name: str) -> str | None:
        """The engine that a channel points at."""
        current = self.channel(name).current
        return current and current.engine_id

    def manifest_file(self, engine: EngineManifest) -> ObjectFile:
        """A manifest as an object."""
        return ObjectFile(self.objects, manifest_key(engine.cell))

    def channel_file(self, name: str) -> ObjectFile:
        """A channel as an object."""
        return ObjectFile(self.objects, address_of(name).key)

    def replace_manifest(self, engine: EngineManifest, **changes: Any) -> None:
        """Put another manifest in an engine's place, with its digest right, as one would who means harm."""
        changed = engine.model_copy(update=changes)
        self.manifest_file(engine).write_bytes(self.registry.signing.seal("manifest", changed.model_dump(mode="json")))


def stock(root: Path) -> Path:
    """Register `FAST` and `SLOW` in `registry`, and keep `BAD`, which failed, in `store`, both below `root`."""
    shelf = Shelf(root / "registry", StageContext(LocalStore(root / "store")))
    shelf.register("fp16", p50_ms=2.0)
    shelf.register("fp32", p50_ms=4.0)
    shelf.keep_out("int8")
    return root
