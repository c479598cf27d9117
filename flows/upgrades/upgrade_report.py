"""What came of an upgrade, as JSON: the engines before and after, what changed, and which may follow."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

from tasks.declared import Digest, Frozen
from tasks.errors import VERDICT_CODES, ExitCode
from tasks.records import BackendIdentity
from tasks.registry.moves import ChannelName
from tasks.release.changes import RuleChange, SpeedChange, rule_changes, speed_change
from tasks.rule_view import deciding_sentence
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.errors import EnginegateError
    from tasks.records import EngineManifest, EngineOutcome
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelAddress
    from tasks.timings import EngineRace

ALONE = "PyTorch is not timed beside it: the module is not in the registry"


class Toolchain(Frozen):
    """What built an engine, with which options."""

    backend: BackendIdentity
    options: dict[str, str]

    @classmethod
    def of(cls, manifest: EngineManifest) -> Toolchain:
        """That of a registered engine."""
        return cls(backend=manifest.backend, options=manifest.options)


class UpgradedEngine(Frozen):
    """One engine of an upgrade.

    `engine_id` is the one that the channel points at, None where that cannot be read; `upgraded` the one that was made
    of it, also where it did not pass. `state` says whether it was made now, or before, or why there is none: nothing
    is to be done, or it was skipped for `reason`. Where it `may_follow`, `promote` is the command that begins with it.
    """

    model: str
    target: str
    channel: str
    state: Literal["made", "made before", "nothing to do", "skipped"]
    engine_id: str | None = None
    upgraded: str | None = None
    before: Toolchain | None = None
    after: Toolchain | None = None
    plan_before: Digest | None = None
    plan_after: Digest | None = None
    verdict: Outcome | None = None
    registered: bool = False
    may_follow: bool = False
    reason: str = ""
    rules: tuple[RuleChange, ...] = ()
    speed: SpeedChange | None = None
    notes: tuple[str, ...] = ()
    promote: str | None = None
    code: ExitCode = ExitCode.DONE

    @classmethod
    def made_before(cls, address: ChannelAddress, old: SignedManifest, made: EngineManifest) -> UpgradedEngine:
        """An engine that an upgrade before this one registered, here or on another host."""
        return cls._measured(address, old, made, None, (), "made before")

    @classmethod
    def made(
        cls,
        address: ChannelAddress,
        old: SignedManifest,
        outcome: EngineOutcome,
        made: EngineManifest | None,
        race: EngineRace | None,
        notes: tuple[str, ...],
    ) -> UpgradedEngine:
        """An engine that was made now; `made` is None where not everything of it was measured."""
        if made is not None:
            return cls._measured(address, old, made, race, notes, "made")
        manifest = old.manifest
        return cls(
            **_place(address),
            state="made",
            engine_id=manifest.engine_id,
            upgraded=outcome.cell.engine_id,
            before=Toolchain.of(manifest),
            plan_before=manifest.plan.digest,
            verdict=outcome.outcome,
            reason=outcome.reason,
            notes=notes,
            code=VERDICT_CODES[outcome.outcome.value],
        )

    @classmethod
    def _measured(
        cls,
        address: ChannelAddress,
        old: SignedManifest,
        made: EngineManifest,
        race: EngineRace | None,
        notes: tuple[str, ...],
        state: Literal["made", "made before"],
    ) -> UpgradedEngine:
        manifest, passed = old.manifest, made.verdict.outcome is Outcome.PASS
        return cls(
            **_place(address),
            state=state,
            engine_id=manifest.engine_id,
            upgraded=made.engine_id,
            before=Toolchain.of(manifest),
            after=Toolchain.of(made),
            plan_before=manifest.plan.digest,
            plan_after=made.plan.digest,
            verdict=made.verdict.outcome,
            registered=passed or made.override is not None,
            may_follow=passed,
            reason=deciding_sentence(made.verdict),
            rules=rule_changes(manifest.verdict, made.verdict),
            speed=speed_change(manifest.benchmark, made.benchmark, race),
            notes=(*notes, ALONE),
            promote=_promote(made) if passed else None,
            code=VERDICT_CODES[made.verdict.outcome.value],
        )


class UpgradeReport(Frozen):
    """An upgrade of what a channel points at for a target; engines come by model."""

    channel: str
    target: str
    engines: tuple[UpgradedEngine, ...]


def skipped(address: ChannelAddress, engine: SignedManifest | None, error: EnginegateError) -> UpgradedEngine:
    """An engine that was left out, and why."""
    engine_id = None if engine is None else engine.manifest.engine_id
    return UpgradedEngine(
        **_place(address), state="skipped", engine_id=engine_id, reason=str(error), code=error.exit_code
    )


def unchanged(address: ChannelAddress, engine: SignedManifest) -> UpgradedEngine:
    """An engine that this host built, or one that is the same."""
    manifest = engine.manifest
    return UpgradedEngine(
        **_place(address),
        state="nothing to do",
        engine_id=manifest.engine_id,
        before=Toolchain.of(manifest),
        reason="it was built by the toolchain that is here; --again REASON builds it once more",
    )


def _place(address: ChannelAddress) -> dict[str, str]:
    return {"model": address.model, "target": address.target, "channel": address.channel.value}


def _promote(made: EngineManifest) -> str:
    """The command that begins to move channels: a person gives it, and goes on step by step."""
    cell, step = made.cell, ChannelName.CANDIDATE.value if made.synthetic else ChannelName.STAGING.value
    words = ["enginegate", "promote", cell.model, "--target", cell.target, "--to", step, "--engine", made.engine_id]
    return shlex.join(words)
