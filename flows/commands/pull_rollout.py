"""What `enginegate pull --watch` does of a rollout: follows it, and brings what the host saw into the registry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.errors import EnginegateError
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.rollouts import RolloutAddress
from tasks.release.evidence_upload import EvidenceUpload, Uploaded, host_name
from tasks.release.follow_rollout import Followed, RolloutFollower

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.commands.command import Document
    from flows.session import Session
    from tasks.registry.registry import Registry
    from tasks.release.triton_switch import TritonSwitch


@dataclass
class RolloutWatch:
    """Follows the rollouts of a channel's model, look by look; `tell` hears of changes, as documents.

    `followed` and `uploaded` are what the last look came to; `error` is what it failed with, if it did.
    """

    session: Session
    follower: RolloutFollower
    upload: EvidenceUpload
    tell: Callable[[Document], None]
    followed: Followed = field(default_factory=Followed)
    uploaded: Uploaded = field(default_factory=lambda: Uploaded(0, 0, 0))
    error: str | None = None

    @classmethod
    def of(
        cls,
        session: Session,
        service: TritonSwitch | None,
        address: ChannelAddress,
        host: str | None,
        wait_s: float,
        arm_from: str | None,
        tell: Callable[[Document], None],
    ) -> RolloutWatch | None:
        """That of a watch; None where it follows no rollouts: they are production's, and the router's.

        Raises:
            InputError: no host can be called `host`.
        """
        name = host_name(host)
        if service is None or address.channel is not ChannelName.PRODUCTION:
            return None
        rollouts = RolloutAddress(address.model, address.target)
        follower = RolloutFollower(service, rollouts, wait_s, arm_from)
        return cls(session, follower, EvidenceUpload(follower.evidence, rollouts, name), tell)

    def look(self, registry: Registry) -> None:
        """Make the host as the newest step says, then upload; what fails leaves it as it was, and is told once.

        Raises:
            OSError: the disk fails.
        """
        errors = []
        try:
            self._note(self.follower.look(registry))
        except EnginegateError as error:
            errors.append(str(error))
        try:
            self.uploaded = self.upload.run(registry.objects)
        except EnginegateError as error:
            self.uploaded = self.upload.status
            errors.append(f"what this host saw of a rollout waits: {error}")
        self._note_error("; ".join(errors) or None)

    def fail(self, message: str) -> None:
        """The registry could not even be opened: the host goes on as it was."""
        self._note_error(message)

    def document(self) -> Document:
        """What health says of it."""
        found = self.followed
        return {
            "id": found.rollout,
            "step": found.step,
            "canary": found.canary,
            "weight": found.weight,
            "mirror": found.mirror,
            "note": found.note,
            "crashed": found.crashed,
            "error": self.error,
            "files_waiting": self.uploaded.waiting,
            "files_lost": self.uploaded.lost,
        }

    def _note(self, found: Followed) -> None:
        before, self.followed = self.followed, found
        if (before.rollout, before.step, before.note, before.weight) == (
            found.rollout,
            found.step,
            found.note,
            found.weight,
        ):
            return
        self.session.reporter.marked(_line_of(found))
        self.tell({"event": "rollout", **self.document()})

    def _note_error(self, message: str | None) -> None:
        if message not in {None, self.error}:
            self.session.reporter.error(str(message))
            self.tell({"event": "error", "error": message, "exit_code": 1})
        self.error = message


def _line_of(found: Followed) -> str:
    if found.rollout is None:
        return "- no rollout is open: production answers everybody"
    if found.note is not None:
        mark = "✕" if found.crashed else "!"
        return f"{mark} rollout {found.rollout}, step {found.step}: production answers everybody here: {found.note}"
    return (
        f"✓ rollout {found.rollout}, step {found.step}: {found.canary} answers {found.weight:g} %, and unseen"
        f" {100 * found.mirror:.3g} % of production's requests"
    )
