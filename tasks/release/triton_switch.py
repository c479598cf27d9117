"""Serves a pulled engine by Triton: laid out in a repository, tried through its server, and switched to without a gap.

The order of a switch: the new engine's models are written and loaded beside the old one's, and its smoke inputs go
through the server straight to them. Only then is the move accepted, and the router's route replaced by one rename.
After a grace, in which requests that took the old route are answered, the old models are unloaded and removed.
Whatever goes wrong before, the old engine goes on serving; where this process is killed, the next pull goes on from
there.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends.fitting import choose_profile, cut_output, extents_of, pad_inputs
from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.objects.files import writing_to
from tasks.release.serving_folder import ServingFolder
from tasks.release.smoke import read_smoke, try_on_smoke
from tasks.serving.engine_io import batch_of
from tasks.serving.engine_layout import PlacedEngine, lay_out_engine, why_not_tensorrt
from tasks.serving.triton_api import TritonApi, TritonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.release.pull import Offer
    from tasks.release.smoke import SmokeReport
    from tasks.samples.npz import Arrays
    from tasks.serving.engine_layout import EngineLayout
    from tasks.serving.route import Route
    from tasks.serving.triton_repository import TritonRepository

# A router stats its route at each call, and a call takes far less than this.
GRACE_S = 2.0
TENSORRT, PYTHON = "tensorrt", "python"
BACKENDS = Path("/opt/tritonserver/backends")
"""Where NVIDIA's images have Triton's backends; looked at where no server is there to be asked."""
SERVER = "server"
_NO_BACKEND = re.compile(r"unable to find backend library|unable to find '?libtriton_tensorrt", re.IGNORECASE)
# Clients are told no more than that the plan cannot be loaded; TensorRT's own words are in the server's log alone.
_OTHER_TENSORRT = re.compile(
    r"unable to load plan file|unable to create TensorRT (engine|runtime)|version tag|serializ|not compatible",
    re.IGNORECASE,
)


@dataclass
class TritonSwitch:
    """How `pull_engine` puts an engine into service at a Triton server, and without one lays it out for its start.

    Attributes:
        repository: where the models go.
        api: the server that serves it; None where there is none yet.
        say: told a line for people, with its mark.
        grace_s: how long requests may still take the old route, in seconds.
        switched: whether the last pull led the router elsewhere.
        report: of the smoke inputs through the server, where there is one.
    """

    repository: TritonRepository
    api: TritonApi | None = None
    say: Callable[[str], None] = lambda _: None
    grace_s: float = GRACE_S
    switched: bool = False
    report: SmokeReport | None = None
    _layout: EngineLayout | None = field(default=None, init=False)

    @property
    def folder(self) -> ServingFolder:
        """Where the engines themselves go, which the repository's models link to."""
        return ServingFolder(self.repository.state)

    def require_free(self) -> None:
        """Check that the repository is ours, and served by no other server than the one that was named.

        Raises:
            InputError: something else lies there, or another server serves it.
            StageError: the server that was named does not answer.
        """
        self.repository.require_own()
        if self.api is not None and not self.api.is_live():
            raise StageError(f"the server at {self.api.url} takes no requests yet; see its log")
        url = self._read_server()
        if url is None or (self.api is not None and self.api.url == url):
            return
        if _serves(url, self.repository.model):
            raise InputError(
                f"{self.repository.root} is in use: the server at {url} serves {self.repository.model} from it; give"
                f" --server {url}, or stop it first"
            )

    def prepare(self, offer: Offer, engine: Path) -> None:
        """Write the models of the engine in folder `engine`, load them and try them; nobody is led to them yet.

        Raises:
            EnginegateError: it cannot be served, and says what goes on serving; what was written of it is gone again.
        """
        before, self.switched, self.report = self.repository.read_route(), False, None
        placed = PlacedEngine(offer.signed.manifest, offer.signed.digest, offer.move.move.number, engine)
        try:
            self._layout = self.bring_up(placed)
        except EnginegateError as error:
            self.take_back(placed)
            raise type(error)(f"{error}; {_left(before)}") from None

    def switch(self) -> None:
        """Lead the router to the engine that was prepared, then take out what it leaves behind.

        Raises:
            StageError: the router cannot be loaded, and leads to the old engine again; or an old model stays loaded.
        """
        layout, repository = self._layout, self.repository
        if layout is None:
            raise StageError("nothing was prepared")
        with writing_to(repository.root):
            before, files = repository.read_route(), repository.router_files() if repository.router.is_dir() else {}
            # The same engine again, as a watch does at its start: its canary answers on.
            same = before is not None and before.following(None) == layout.route
            route = before if same and before is not None else layout.route
            changed = repository.put_router(layout.router, route)
            self.switched = repository.put_route(route) or before is None
        if self.api is not None and (changed or not self.api.is_ready(repository.model)):
            try:
                self.api.load(repository.model)
            except StageError as error:
                with writing_to(repository.root):
                    self._lead_back(before, files)
                raise StageError(f"{error}; {_left(before)}") from None
        self.retire(route)

    def bring_up(self, placed: PlacedEngine) -> EngineLayout:
        """Write the models of an engine, load them, and try its smoke inputs through the server, where there is one.

        Raises:
            EnginegateError: it cannot be served; what was written of it is for `take_back`.
        """
        wanted, first = placed.manifest.serving.backend, self._first_backend(placed)
        try:
            return self._try(placed, first)
        except TritonError as error:
            if first != TENSORRT:
                raise
            if wanted == "auto" and _NO_BACKEND.search(error.reason):
                self.take_back(placed)
                self.say(
                    "- the server has no backend tensorrt; its Python backend serves the plans by their own runner"
                )
                return self._try(placed, PYTHON)
            raise self._about_tensorrt(placed, error) from None

    def _first_backend(self, placed: PlacedEngine) -> str:
        wanted = placed.manifest.serving.backend
        if wanted != "auto":
            return wanted
        if why_not_tensorrt(placed.manifest) is not None:
            return PYTHON
        return TENSORRT if self.api is not None or (BACKENDS / TENSORRT).is_dir() else PYTHON

    def _try(self, placed: PlacedEngine, backend: str) -> EngineLayout:
        layout = lay_out_engine(placed, backend)
        with writing_to(self.repository.root):
            changed = {name for name, files in layout.engines.items() if self.repository.put_engine(name, files)}
        self._tell_plugins(placed, backend)
        if self.api is None:
            return layout
        self._write_server(self.api.url)
        self._require_same_repository(self.api, layout)
        for name in layout.engines:
            if name in changed or not self.api.is_ready(name):
                self.api.load(name)
        self.report = self._try_through(self.api, placed, layout)
        return layout

    def _try_through(self, api: TritonApi, placed: PlacedEngine, layout: EngineLayout) -> SmokeReport:
        """The smoke inputs through the server, past the router, which still leads elsewhere."""
        manifest, models = placed.manifest, layout.route.plans

        def run(feeds: Arrays) -> Arrays:
            if len(models) == 1 and len(manifest.profiles) != 1:
                return api.infer(models[0].model, feeds)  # the runner behind it chooses the plan
            extents = extents_of(feeds, manifest.inputs)
            profile = choose_profile(manifest.profiles, extents)
            model = models[manifest.profiles.index(profile)].model
            outputs = api.infer(model, pad_inputs(feeds, manifest.inputs, profile))
            return {
                name: cut_output(outputs[name], output.axes, extents) for name, output in layout.route.outputs.items()
            }

        report = try_on_smoke(run, read_smoke(placed.folder / "smoke"), manifest.dims[batch_of(manifest)])
        if not report.ok:
            raise RefusedError(
                f"{manifest.engine_id} does not do on the server what it did when it was compared:"
                f" {'; '.join(report.faults)}"
            )
        return report

    def _require_same_repository(self, api: TritonApi, layout: EngineLayout) -> None:
        missing = set(layout.engines) - {state.name for state in api.index()}
        if missing:
            raise InputError(
                f"the server at {api.url} does not see {min(missing)}, which lies in {self.repository.root}; start it"
                " with that folder as --model-repository and --model-control-mode=explicit"
            )

    def _about_tensorrt(self, placed: PlacedEngine, error: TritonError) -> EnginegateError:
        manifest = placed.manifest
        if self.api is None or not _OTHER_TENSORRT.search(error.reason):
            return error
        return RefusedError(
            f"{manifest.engine_id} was built with TensorRT {manifest.backend.version}, and Triton {self.api.version()}"
            f" at {self.api.url} cannot load it: {error.reason}. Where its TensorRT is another, take the Triton of that"
            " TensorRT, or set serving.backend to python; where the engine has plugins, start the server with"
            " --backend-config=tensorrt,plugins=FILES"
        )

    def _tell_plugins(self, placed: PlacedEngine, backend: str) -> None:
        libraries = sorted(placed.folder.glob("plan/plugins/*")) if backend == TENSORRT else []
        if libraries:
            names = ";".join(map(str, libraries))
            self.say(f"! the engine has plugins: the server needs --backend-config=tensorrt,plugins={names}")

    def take_back(self, placed: PlacedEngine) -> None:
        """Remove the models of an engine that the router does not lead to."""
        before = self.repository.read_route()
        served = before.models if before is not None else frozenset()
        tried = [name for name in self.repository.engines() if name not in served and name.startswith(placed.name)]
        if self.api is not None:
            for name in tried:
                _unload_quietly(self.api, name)
        self._remove(tried)

    def _lead_back(self, before: Route | None, files: dict[str, bytes | Path]) -> None:
        if before is None:
            self.repository.remove_router()
            return
        self.repository.put_router(files, before)
        self.repository.put_route(before)

    def retire(self, route: Route) -> None:
        """Unload and remove the models that the router leads to no longer, when their last requests are answered."""
        old = [name for name in self.repository.engines() if name not in route.models]
        if old and self.api is not None:
            time.sleep(self.grace_s)
            for name in old:
                if self.api.is_ready(name):
                    self.api.unload(name)
        self._remove(old)

    def _remove(self, names: Iterable[str]) -> None:
        with writing_to(self.repository.root):
            for name in names:
                self.repository.remove_engine(name)

    def _read_server(self) -> str | None:
        try:
            return (self.repository.state / SERVER).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def _write_server(self, url: str) -> None:
        if self._read_server() != url:
            self.repository.put_state(SERVER, f"{url}\n".encode())


def _left(before: Route | None) -> str:
    return "nothing is served" if before is None else f"{before.words} goes on serving"


def _serves(url: str, model: str) -> bool:
    try:
        return TritonApi(url, limit_s=GRACE_S).is_ready(model)
    except EnginegateError:
        return False


def _unload_quietly(api: TritonApi, name: str) -> None:
    """Forget a model that may have failed to load: a server that is gone, or never had it, has nothing to forget."""
    try:
        api.unload(name)
    except StageError:
        return
