from __future__ import annotations

from collections import Counter
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
# The same thing in each room: what it asks of those who implement it, or what a parent and its child tell each other.
ONE_NAME_ONE_THING = {"__init__.py", "interface.py"}


def rooms_of_contract() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [room.strip() for layer in layers for room in layer.split("|")]


def test_the_layers_contract_names_every_room() -> None:
    rooms = {
        f"{top}.{path.stem}"
        for top in ("flows", "tasks")
        for path in (ROOT / top).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(rooms_of_contract()) == sorted(rooms - {"flows.__init__", "tasks.__init__"} | {"validation"})


def test_no_two_modules_have_one_name_for_different_things() -> None:
    names = Counter(path.name for top in ("flows", "tasks", "validation") for path in (ROOT / top).rglob("*.py"))
    assert {name for name, times in names.items() if times > 1} <= ONE_NAME_ONE_THING
