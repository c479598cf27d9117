"""A Triton model repository on disk, shared by several models: what it holds of one of them, written whole.

Models of engines appear and go by one rename. The router's folder stays, and each of its files is replaced by one
rename. A process that is killed leaves what the next one writes again or removes; the router's `route.json` leads to
models that are whole at every moment.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.errors import InputError
from tasks.objects.files import make_folders, sync_folder
from tasks.serving.route import ROUTE, Route
from tasks.store.digests import canonical_json, digest_file
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STATE_FOLDER = ".enginegate"
_PULLED = "state.json"


def require_no_repository(folder: Path) -> None:
    """Check that a pull of files alone does not write into a Triton repository.

    Raises:
        InputError: routers of pulled models lie there.
    """
    router = next((path.parent.name for path in sorted(folder.glob(f"*/{ROUTE}"))), None)
    if router is not None:
        raise InputError(
            f"{folder} is a Triton repository, in which {router} is served; pull with --layout triton, or into a folder"
            " of its own"
        )


class TritonRepository:
    """The repository at `root`, as far as it is the model's. Who writes holds the lock of its `state` folder."""

    def __init__(self, root: Path, model: str) -> None:
        self.root, self.model = root.absolute(), model
        self.state = self.root / STATE_FOLDER / model
        self.router = self.root / model
        self._engine = re.compile(rf"{re.escape(model)}--[0-9]+-[0-9a-f]{{8}}(--.+)?")

    def require_own(self) -> None:
        """Check that nobody else keeps something where this would write.

        Raises:
            InputError: the folder is not a repository, or the model's place in it is taken.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file; name a folder for the repository")
        if os.path.lexists(self.root / _PULLED) or os.path.lexists(self.root / "current"):
            raise InputError(
                f"{self.root} is the folder of a pull without --layout triton; pull into a folder of its own"
            )
        if os.path.lexists(self.router) and (self.router.is_symlink() or self.read_route() is None):
            raise InputError(
                f"{self.router} is there, and was not made by enginegate; move it away, or choose another repository"
            )

    def read_route(self) -> Route | None:
        """What the router serves; None where there is none that can be read."""
        try:
            route = Route.model_validate_json((self.router / ROUTE).read_bytes())
        except (OSError, ValidationError):
            return None
        return route if route.model == self.model else None

    def engines(self) -> tuple[str, ...]:
        """The models of engines that lie here."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(path.name for path in self.root.iterdir() if self._engine.fullmatch(path.name)))

    def put_engine(self, name: str, files: Mapping[str, bytes | Path]) -> bool:
        """Write a model of an engine; False if it lay here just so. Paths are linked, or copied where they cannot be.

        Raises:
            OSError: the disk fails.
        """
        folder = self.root / name
        if _is_same(folder, files):
            return False
        with self._scratch().folder() as staged:
            _write_all(staged / "new", files)
            self._set_aside(folder, staged)
            (staged / "new").rename(folder)
        sync_folder(self.root)
        return True

    def put_router(self, files: Mapping[str, bytes | Path], route: Route) -> bool:
        """Write the router, with its route where it is new; False if it lay here just so."""
        if not self.router.is_dir():
            with self._scratch().folder() as staged:
                _write_all(staged / "new", {**files, ROUTE: _content(route)})
                (staged / "new").rename(self.router)
            sync_folder(self.root)
            return True
        wrong = [name for name, content in files.items() if not _holds(self.router / name, content)]
        others = [path for path in _files_in(self.router) if path not in {*files, ROUTE}]
        for name in wrong:
            make_folders((self.router / name).parent)
            content = files[name]
            self._scratch().write(self.router / name, content if isinstance(content, bytes) else content.read_bytes())
        for name in others:
            (self.router / name).unlink()
        return bool(wrong or others)

    def router_files(self) -> dict[str, bytes | Path]:
        """The router's files as they are, but its route; to put them back."""
        return {path: (self.router / path).read_bytes() for path in _files_in(self.router) if path != ROUTE}

    def put_route(self, route: Route) -> bool:
        """Lead the router elsewhere by one rename; False if it led there before."""
        if self.read_route() == route:
            return False
        self._scratch().write(self.router / ROUTE, _content(route))
        sync_folder(self.router)
        return True

    def put_state(self, name: str, content: bytes) -> None:
        """Write a file of this model's own state."""
        make_folders(self.state)
        self._scratch().write(self.state / name, content)

    def remove_engine(self, name: str) -> None:
        """Remove a model of an engine, so that no half of it is ever seen."""
        with self._scratch().folder() as staged:
            self._set_aside(self.root / name, staged)
        sync_folder(self.root)

    def remove_router(self) -> None:
        """Remove a router that was never served."""
        with self._scratch().folder() as staged:
            self._set_aside(self.router, staged)

    def _set_aside(self, folder: Path, staged: Path) -> None:
        if os.path.lexists(folder):
            folder.rename(staged / "old")

    def _scratch(self) -> ScratchSpace:
        return ScratchSpace(self.state / ".scratch")


def _content(route: Route) -> bytes:
    return canonical_json(route.model_dump(mode="json"))


def _files_in(folder: Path) -> list[str]:
    """Every file of a model but what Python compiles of it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and path.parent.name != "__pycache__"
    )


def _is_same(folder: Path, files: Mapping[str, bytes | Path]) -> bool:
    if folder.is_symlink() or not folder.is_dir() or _files_in(folder) != sorted(files):
        return False
    return all(_holds(folder / name, content) for name, content in files.items())


def _holds(path: Path, content: bytes | Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if isinstance(content, bytes):
        return path.read_bytes() == content
    return path.samefile(content) or digest_file(path) == digest_file(content)


def _write_all(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            _link(content, path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        sync_folder(path)


def _link(source: Path, path: Path) -> None:
    """A second name of a file: a plan of some GB lies on the disk once."""
    try:
        os.link(source, path)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, path)
