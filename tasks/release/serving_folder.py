"""The folder of a serving host: the engines that were pulled, and the links that say which of them to serve.

`current` and `previous` are links to a folder each, moved by one rename, so that a server sees the old engine or the
new one. `state.json` holds the move of the channel that was accepted last. A process that is killed leaves nothing
else than a folder that no link leads to, which the next one mends or removes.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from tasks.declared import Digest, Frozen
from tasks.errors import InputError, RefusedError, StageError
from tasks.objects.files import make_folders, sync_folder
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.specs import ENGINE_ID
from tasks.store.digests import canonical_json, digest_file
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tasks.artifact import Artifact, ArtifactFile

CURRENT, PREVIOUS, STATE, MANIFEST = "current", "previous", "state.json", "manifest.json"
# Most pulls into one folder are over by then, and nobody wants to hear of them.
SILENT_S = 1.0
_DIGEST_CHARACTERS = 12
_FOLDER = re.compile(rf"(?P<engine_id>.+)-[0-9a-f]{{{_DIGEST_CHARACTERS}}}")


class Accepted(Frozen):
    """The move of a channel that a host accepted last, by number and digest."""

    schema_version: Literal[1] = 1
    model: str
    target: str
    channel: ChannelName
    number: Annotated[int, Field(ge=1)]
    move: Digest

    @property
    def address(self) -> ChannelAddress:
        """The channel that the host follows."""
        return ChannelAddress(self.model, self.target, self.channel)


def folder_name(engine_id: str, manifest: str) -> str:
    """`<engine id>-<first 12 characters of its manifest's digest>`."""
    return f"{engine_id}-{manifest.removeprefix('sha256:')[:_DIGEST_CHARACTERS]}"


class ServingFolder:
    """Pulled engines below `root`, which need not exist yet. Only `held` and what is called within it writes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def read_accepted(self) -> Accepted | None:
        """The move that was accepted last; None where none was.

        Raises:
            RefusedError: state.json is damaged.
        """
        path = self.root / STATE
        try:
            return Accepted.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, IsADirectoryError):
            raise RefusedError(
                f"{path} is damaged, so that nothing says whether the channel was rewound; look at `enginegate history`"
                " and, if all is well there, remove the file"
            ) from None
        except NotADirectoryError:
            raise InputError(f"{self.root} is a file; name a folder") from None

    @contextmanager
    def held(self, limit_s: float, on_wait: Callable[[float], None] = lambda _: None) -> Iterator[None]:
        """Keep other pulls out, for whom this waits up to `limit_s` seconds; `on_wait` is told so after the first.

        Raises:
            StageError: another one goes on for longer.
        """
        make_folders(self.root)
        lock, silent_s = FileLock(self.root / ".lock"), min(SILENT_S, limit_s)
        try:
            lock.acquire(timeout=silent_s)
        except Timeout:
            on_wait(limit_s)
            self._wait(lock, silent_s, limit_s)
        try:
            yield
        finally:
            lock.release()

    def _wait(self, lock: FileLock, waited_s: float, limit_s: float) -> None:
        try:
            lock.acquire(timeout=limit_s - waited_s)
        except Timeout:
            raise StageError(
                f"{self.root}: another pull has been at work there for {limit_s:g} s; wait for it, or end it"
            ) from None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the disk of `root`, removed on leaving it, or by the next pull."""
        with ScratchSpace(self.root / ".scratch").folder() as folder:
            yield folder

    def engine_at(self, link: str) -> str | None:
        """The name of the folder that `current` or `previous` leads to; None where there is no such link.

        Raises:
            InputError: it is no link, or leads elsewhere, so that somebody else made it.
        """
        path = self.root / link
        try:
            name = str(path.readlink())
        except FileNotFoundError:
            return None
        except OSError:
            name = ""
        if not _is_engine(name):
            raise InputError(f"{path} is no link of enginegate's; move it away, or pull into another folder")
        return name

    def place(
        self,
        name: str,
        parts: Mapping[str, Artifact],
        documents: Mapping[str, bytes],
        fetch: Callable[[Artifact, Path], None],
    ) -> tuple[str, ...] | None:
        """Put an engine's files into its folder; no link leads there yet, unless one did before.

        Args:
            name: of the folder.
            parts: artifacts by the folder in it that they go to.
            documents: contents of manifest.json and what lies beside it, by name.
            fetch: writes the files of an artifact into a folder, checked against their digests.

        Returns:
            None if all of it is new, else the files that were there but not as they should be, and were mended.
        """
        engine = self.root / name
        with self.scratch() as staged:
            if engine.is_symlink() or not engine.is_dir():
                if os.path.lexists(engine):
                    engine.unlink()
                for prefix, artifact in parts.items():
                    fetch(artifact, staged / "new" / prefix)
                for document, content in documents.items():
                    (staged / "new" / document).write_bytes(content)
                _sync_tree(staged / "new", documents)
                (staged / "new").rename(engine)
                sync_folder(self.root)
                return None
            return self._mend(engine, staged, parts, documents, fetch)

    def _mend(
        self,
        engine: Path,
        staged: Path,
        parts: Mapping[str, Artifact],
        documents: Mapping[str, bytes],
        fetch: Callable[[Artifact, Path], None],
    ) -> tuple[str, ...]:
        files = {f"{prefix}/{file.path}" for prefix, part in parts.items() for file in part.files}
        mended = _remove_others(engine, files | set(documents))
        for prefix, artifact in parts.items():
            wrong = tuple(file for file in artifact.files if not _is_whole(engine / prefix / file.path, file))
            fetch(artifact.model_copy(update={"files": wrong}), staged / prefix)
            for file in wrong:
                _put(staged / prefix / file.path, engine / prefix / file.path)
            mended += [f"{prefix}/{file.path}" for file in wrong]
        for document, content in documents.items():
            if _content_of(engine / document) != content:
                (staged / document).write_bytes(content)
                _put(staged / document, engine / document)
                mended.append(document)
        return tuple(mended)

    def accept(self, accepted: Accepted) -> None:
        """Write down the move that is being accepted."""
        if self.read_accepted() != accepted:
            content = canonical_json(accepted.model_dump(mode="json"))
            ScratchSpace(self.root / ".scratch").write(self.root / STATE, content)
            sync_folder(self.root)

    def point(self, name: str) -> bool:
        """Make an engine the current one, and the one before it the previous; False if it was the current one.

        Raises:
            InputError: see `engine_at`.
        """
        current = self.engine_at(CURRENT)
        if current == name:
            return False
        if current is not None and (self.root / current).is_dir():
            self._link(PREVIOUS, current)
        self._link(CURRENT, name)
        return True

    def _link(self, link: str, name: str) -> None:
        with self.scratch() as staged:
            (staged / link).symlink_to(name)
            (staged / link).replace(self.root / link)
        sync_folder(self.root)

    def sweep(self, *keep: str) -> tuple[str, ...]:
        """Remove the folders of engines that are neither current nor previous nor in `keep`; return their names."""
        kept = {*keep, self.engine_at(CURRENT), self.engine_at(PREVIOUS)}
        old = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in kept and _is_engine(path.name) and path.is_dir() and not path.is_symlink()
        )
        for name in old:
            with self.scratch() as staged:  # so that no half of it is ever seen
                (self.root / name).rename(staged / name)
        return tuple(old)


def _is_engine(name: str) -> bool:
    match = _FOLDER.fullmatch(name)
    return match is not None and ENGINE_ID.fullmatch(match["engine_id"]) is not None


def _is_whole(path: Path, file: ArtifactFile) -> bool:
    return path.is_file() and digest_file(path) == (file.digest, file.size_bytes)


def _content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _remove_others(engine: Path, files: set[str]) -> list[str]:
    """Remove what does not belong to an engine: a runtime might load it."""
    folders = {str(folder) for file in files for folder in PurePosixPath(file).parents}
    removed = []
    for path in sorted(engine.rglob("*")):
        inside = path.relative_to(engine).as_posix()
        if not os.path.lexists(path):  # its folder went already
            continue
        if not path.is_symlink() and (inside in folders if path.is_dir() else inside in files):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(inside)
    return removed


def _put(staged: Path, path: Path) -> None:
    with staged.open("rb") as stream:
        os.fsync(stream.fileno())
    make_folders(path.parent)
    staged.replace(path)
    sync_folder(path.parent)


def _sync_tree(folder: Path, documents: Iterable[str]) -> None:
    for document in documents:
        with (folder / document).open("rb") as stream:
            os.fsync(stream.fileno())
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
    sync_folder(folder)
