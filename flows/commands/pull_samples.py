"""What `enginegate pull --watch --samples-to` does: samples of live traffic go to a bucket or folder, look by look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import EnginegateError, InputError
from tasks.objects.location import open_objects
from tasks.release.evidence_upload import host_name
from tasks.release.sample_upload import SampleUpload

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.commands.command import Document
    from flows.session import Session
    from tasks.objects.interface import ObjectStore
    from tasks.registry.moves import ChannelAddress
    from tasks.release.triton_switch import TritonSwitch


@dataclass
class SampleWatch:
    """Uploads what the router kept; `tell` hears of it, as documents. What fails is told once, and tried again."""

    session: Session
    objects: ObjectStore
    upload: SampleUpload
    tell: Callable[[Document], None]
    error: str | None = None

    @classmethod
    def of(
        cls,
        session: Session,
        service: TritonSwitch | None,
        channel: ChannelAddress,
        host: str | None,
        to: str | None,
        tell: Callable[[Document], None],
    ) -> SampleWatch | None:
        """That of a watch; None where no samples are to be uploaded.

        Raises:
            InputError: no router keeps samples here, or the address is none.
        """
        if to is None:
            return None
        if service is None:
            raise InputError("--samples-to is of --layout triton, whose router keeps samples; add that")
        upload = SampleUpload(
            service.repository.state / "traffic", f"{channel.model}/{channel.target}", host_name(host)
        )
        return cls(session, open_objects(to), upload, tell)

    def look(self) -> None:
        """Upload what is new.

        Raises:
            OSError: the disk fails.
        """
        try:
            shards = self.upload.run(self.objects)
        except EnginegateError as error:
            self.fail(str(error))
            return
        self.error = None
        if shards:
            files = "1 shard" if shards == 1 else f"{shards} shards"
            self.session.reporter.marked(f"✓ {files} of sampled traffic in {self.objects.address}")
            self.tell({"event": "samples", "shards": shards, "to": self.objects.address})

    def fail(self, problem: str) -> None:
        """Say once that the samples wait here."""
        message = f"samples of traffic wait on this host: {problem}"
        if message != self.error:
            self.session.reporter.error(message)
            self.tell({"event": "error", "error": message, "exit_code": 1})
        self.error = message
