"""Reads an organisation's floor under its models' policies, ENGINEGATE_POLICY_FLOOR."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.model.documents import read_yaml
from tasks.store.digests import digest_json
from validation.floor import PolicyFloor, Tightened, floor_from_mapping, tighten
from validation.rules import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from validation.outputs import OutputSpec
    from validation.policy import Policy


@dataclass(frozen=True)
class OrganisationFloor:
    """A floor and `sha256:…` of what it asks for, which is part of the version of every model that it is under."""

    floor: PolicyFloor
    digest: str

    def tighten(self, policy: Policy, outputs: Mapping[str, OutputSpec]) -> Tightened:
        """The policy that holds; see `validation.floor.tighten`.

        Raises:
            InputError: an output lacks the range that a rule is a share of.
        """
        try:
            return tighten(policy, self.floor, outputs)
        except PolicyError as error:
            raise InputError(str(error)) from None


def read_floor(path: Path) -> OrganisationFloor:
    """Read a floor.

    Raises:
        InputError: it cannot be read, or has a mistake.
    """
    try:
        floor = floor_from_mapping(read_yaml(path), origin=path.name)
    except (InputError, PolicyError) as error:
        raise InputError(f"ENGINEGATE_POLICY_FLOOR: {error}") from None
    return OrganisationFloor(floor, digest_json(asdict(floor)))
