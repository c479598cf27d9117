from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from tasks.registry.rollouts import StepKind
from tests.tasks.canary import BEGAN, Canary
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.traffic import Traffic, arms_document, conductor

if TYPE_CHECKING:
    from tasks.process.context import StageContext


def test_a_canary_that_does_not_come_up_on_a_host_is_rolled_back_with_the_reason(context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context).stock()
    traffic = Traffic(shelf)
    shelf.start()
    traffic.flow()
    arms = arms_document(traffic.step, production=0, canary=0)
    arms["arms"]["canary"]["crashed"] = "CUDA out of memory"
    traffic.put("120000-watch-arms-00ff.json", json.dumps(arms).encode(), host="gpu-7")
    found = conductor(shelf).conduct(BEGAN + timedelta(minutes=1))
    assert found.step is not None
    assert found.step.kind is StepKind.ROLLBACK
    assert "the canary did not come up on 1 host: fail. gpu-7: CUDA out of memory" in found.step.why
