"""A serving host that follows rollouts, with a Triton server that is made up, and the steps that it reads."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.registry.rollouts import RolloutAddress
from tasks.release.follow_rollout import Followed, RolloutFollower
from tasks.release.triton_switch import TritonSwitch
from tasks.rollout import transitions
from tasks.rollout.plan import settle
from tasks.rollout.transitions import By
from tasks.rollout_spec import RolloutPlan
from tasks.serving.triton_api import ModelState, TritonApi, TritonError, UnreachableError
from tasks.serving.triton_repository import TritonRepository
from tests.tasks.serving_host import FIRST, SECOND, Shop
from tests.tasks.tiny import score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from tasks.records import EngineManifest
    from tasks.registry.rollouts import RolloutStep
    from tasks.serving.route import Route

ROLLOUT = RolloutAddress("tiny", "cpu")
CANARY = ChannelAddress("tiny", "cpu", ChannelName.CANARY)
ID, OTHER_ID = "0123456789ab", "ba9876543210"
BEGAN = datetime(2026, 1, 20, 12, tzinfo=timezone.utc)
PLAN = RolloutPlan(steps=("shadow", 5.0, 100.0))


class MadeUpServer(TritonApi):
    """Loads what it is told to; `refusals` say by a part of a model's name why it does not."""

    def __init__(self, repository: TritonRepository) -> None:
        super().__init__("http://127.0.0.1:9")
        self.repository, self.loaded = repository, set[str]()
        self.refusals: dict[str, str] = {}
        self.wrong: set[str] = set()
        self.gone = False
        self.on_load: Callable[[str], object] = lambda _: None

    def _require(self) -> None:
        if self.gone:
            raise UnreachableError("no server answers at http://127.0.0.1:9")

    def answers(self) -> bool:
        return not self.gone

    def is_live(self) -> bool:
        self._require()
        return True

    def is_ready(self, model: str) -> bool:
        self._require()
        return model in self.loaded

    def index(self) -> tuple[ModelState, ...]:
        self._require()
        return tuple(ModelState(path.name, "1", "", "") for path in self.repository.root.iterdir())

    def load(self, model: str) -> None:
        self.on_load(model)
        self._require()
        for part, reason in self.refusals.items():
            if part in model:
                raise TritonError(f"the server did not load {model}: {reason}", reason)
        assert (self.repository.root / model).is_dir()
        self.loaded.add(model)

    def unload(self, model: str) -> None:
        self._require()
        self.loaded.discard(model)

    def infer(self, model: str, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        self._require()
        assert model in self.loaded
        found = score(feeds["features"])
        return {"score": found + 1 if any(part in model for part in self.wrong) else found}


class RolloutHost:
    """A shop whose production serves FIRST, and SECOND as the canary; and a host that serves production."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.repository = TritonRepository(shop.root / "repository", "tiny")
        self.server = MadeUpServer(self.repository)
        self.production = shop.offer(FIRST, plan=shop.onnx_plan())
        self.shop.promote(self.production.cell, address=CANARY)
        self.canary = self.publish(SECOND)
        self._minutes = 0

    def publish(self, version: str, **changes: Any) -> EngineManifest:
        """Publish an engine, and make it the canary."""
        manifest = self.shop.publish(version, plan=self.shop.onnx_plan(), **changes)
        self.shop.promote(manifest.cell, address=CANARY)
        return manifest

    @property
    def switch(self) -> TritonSwitch:
        """As a watch makes one at each start."""
        return TritonSwitch(self.repository, self.server, grace_s=0)

    def pull(self) -> None:
        """Serve what production points at."""
        switch = self.switch
        self.shop.pull(folder=switch.folder, service=switch)

    def start(self, plan: RolloutPlan = PLAN, rollout_id: str = ID) -> RolloutStep:
        channels = self.shop.registry.channels
        production = channels.read(ChannelAddress("tiny", "cpu", ChannelName.PRODUCTION)).current
        canary = channels.read(CANARY).current
        return self.step(
            transitions.begin,
            canary=canary,
            production=production,
            plan=settle(plan, self.canary),
            rollout_id=rollout_id,
        )

    def step(self, rule: Callable[..., RolloutStep], **options: Any) -> RolloutStep:
        """Write the step that a rule says."""
        self._minutes += 20
        by = By("ann", BEGAN + timedelta(minutes=self._minutes), reason="as planned")
        return self.shop.registry.rollouts.write(ROLLOUT, lambda history: rule(history, **options, by=by))

    def look(self, switch: TritonSwitch | None = None) -> Followed:
        """One look, of a watch that remembers nothing but what lies on its disk."""
        registry = Registry(self.shop.objects, self.shop.trusting or self.shop.signing)
        return RolloutFollower(switch or self.switch, ROLLOUT, 30).look(registry)

    @property
    def route(self) -> Route:
        route = self.repository.read_route()
        assert route is not None
        return route

    @property
    def canary_models(self) -> list[str]:
        return [name for name in self.repository.engines() if name.startswith("tiny--0-")]

    def is_clean(self) -> bool:
        """Whether production alone is there and loaded."""
        with suppress(FileNotFoundError):
            assert not [path for path in (self.repository.state / "canary").iterdir() if not path.name.startswith(".")]
        return self.route.rollout is None and self.server.loaded == {"tiny", *self.repository.engines()} == {
            "tiny",
            *(plan.model for plan in self.route.plans),
        }
