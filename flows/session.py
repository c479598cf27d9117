"""The surroundings of a run on this host: settings, store, registry, tracker, and where to report."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from flows.console import Reporter
from flows.listeners import LISTENERS, STEP_LISTENERS
from flows.settings import Settings, read_settings
from tasks.errors import InputError
from tasks.model.policy_floor import OrganisationFloor, read_floor
from tasks.objects.location import S3, open_objects
from tasks.process.child import ignore_progress
from tasks.process.context import StageContext
from tasks.process.kernel import machine_memory_bytes
from tasks.registry.listeners import Listeners
from tasks.registry.moves import UNNAMED, RegistryName
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.release.rejected import RejectedEngines
from tasks.store.local import LocalStore
from tasks.store.record_folder import RecordFolder, open_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.tracking.interface import Tracker


@dataclass(frozen=True)
class Session:
    """Opened once a run; each part opens on first use."""

    settings: Settings
    reporter: Reporter

    @cached_property
    def store(self) -> LocalStore:
        """The artifact store."""
        return LocalStore(self.settings.store_path)

    @cached_property
    def state(self) -> RecordFolder:
        """What must outlive the store: the journal of conversions, the watcher's heads, what did not pass."""
        return open_state(self.settings.state_path, self.settings.store_path)

    @property
    def rejected(self) -> RejectedEngines:
        """The engines that were converted here and did not pass."""
        return RejectedEngines(self.state, self.store)

    @cached_property
    def registry(self) -> Registry:
        """The registry."""
        return self.open_registry()

    def open_registry(self, second_key: Path | None = None) -> Registry:
        """Open the registry anew, with the keys that sign and are trusted now, and those who hear of its moves."""
        signing = Signing.from_files(self.settings.signing_key, self.settings.trust)
        signing = signing if second_key is None else signing.with_second(second_key)
        objects = open_objects(self.settings.registry_address)
        # A listener reads through a registry without listeners, so that it cannot set itself off.
        name = self._registry_name(objects.address)
        moved = Listeners(
            [make(self.settings, Registry(objects, signing, name=name)) for make in LISTENERS], self.reporter.say
        )
        stepped = Listeners(
            [make(self.settings, Registry(objects, signing, name=name)) for make in STEP_LISTENERS],
            self.reporter.say,
            "the rollout goes on",
        )
        return Registry(objects, signing, moved, name, stepped)

    def _registry_name(self, address: str) -> RegistryName:
        """What the registry is called in its moves: as it was set, else a bucket's address; a folder has no name."""
        if self.settings.registry_name is not None:
            return RegistryName(self.settings.registry_name, is_required=True)
        return RegistryName(address) if address.startswith(S3) else UNNAMED

    @cached_property
    def policy_floor(self) -> OrganisationFloor | None:
        """What every model's policy has to meet; None without the setting.

        Raises:
            InputError: its file cannot be read, or has a mistake.
        """
        return None if self.settings.policy_floor is None else read_floor(self.settings.policy_floor)

    @property
    def downloads(self) -> Path:
        """Folder of files that were fetched, by digest."""
        return self.settings.home.resolve() / "downloads"

    @property
    def server_log(self) -> Path:
        """What the temporary Prefect server says."""
        return self.settings.home.resolve() / "prefect-server.log"

    @cached_property
    def tracker(self) -> Tracker:
        """The tracker."""
        from tasks.tracking.mlflow_store import MlflowTracker  # noqa: PLC0415 - takes over a second

        return MlflowTracker(self.settings.tracking_uri, str(self.settings.artifact_root))

    def stage_context(self, on_progress: Callable[[int, int], None] = ignore_progress) -> StageContext:
        """What a stage needs, with its progress shown through `on_progress`."""
        return StageContext(
            self.store,
            self.settings.time_limit_s,
            self.settings.benchmark_s,
            on_progress,
            on_warning=lambda text: self.reporter.say(f"! {text}"),
            timing_caches=self.settings.home.resolve() / "timing-caches",
            torch_python=self.settings.torch_python,
            memory_limit_bytes=self.settings.memory_limit_bytes or machine_memory_bytes(),
        )


_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)


def current_session() -> Session:
    """The session of the command that runs, or, in a flow that a worker started, one made from the environment.

    Raises:
        InputError: a setting is at fault, or a worker's home folder is relative.
    """
    session = _CURRENT.get()
    if session is None:
        session = Session(read_settings(), Reporter())
        _require_lasting_home(session.settings)
    return session


def _require_lasting_home(settings: Settings) -> None:
    """A worker runs a flow in a temporary folder: nothing may be kept in the current one there."""
    from prefect.context import FlowRunContext  # noqa: PLC0415 - whoever asks for it here is in a flow

    context = FlowRunContext.get()
    by_worker = context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
    if by_worker and not settings.home.is_absolute():
        raise InputError("ENGINEGATE_HOME: a worker needs it, as an absolute path; set it where the worker is started")


@contextmanager
def use_session(session: Session) -> Iterator[Session]:
    """Make `session` the current one."""
    token = _CURRENT.set(session)
    try:
        yield session
    finally:
        _CURRENT.reset(token)
