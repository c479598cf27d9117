"""Whether a server honours the conditions of writes, on which all else rests: tried before the first write.

One that ignores `If-Match` lets two people who promote at once overwrite each other, and says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.objects.interface import ChangedError
from tasks.registry.layout import PROBE

if TYPE_CHECKING:
    from tasks.objects.interface import ObjectStore

_CONTENT = b"enginegate looks here whether conditional writes are refused; leave it\n"
# No version of an object has this tag.
_NO_TAG = "0" * 32
_S3 = "s3://"
_found_good: set[str] = set()


def require_conditions(objects: ObjectStore) -> None:
    """Try once in this process, before the first write to a server; folders and memory keep to conditions themselves.

    Raises:
        RefusedError: the server ignores conditions.
    """
    if objects.address.startswith(_S3) and objects.address not in _found_good and try_conditions(objects):
        _found_good.add(objects.address)


def try_conditions(objects: ObjectStore) -> bool:
    """Write where there is an object, and over a version that never was: both must be refused.

    The object is the same in every try and stays: the roles of `infra/aws/registry.yaml` that write may write it, and
    none may delete it.

    Returns:
        False where these credentials may not write it, so that nothing was found out.

    Raises:
        RefusedError: the server ignores conditions.
        StageError: it cannot be reached, or does not know them.
    """
    try:
        if objects.create(PROBE, _CONTENT) and objects.create(PROBE, _CONTENT):
            raise _ignored(objects, "If-None-Match")
        objects.replace(PROBE, _CONTENT, _NO_TAG)
    except ChangedError:
        return True
    except InputError:
        return False
    raise _ignored(objects, "If-Match")


def _ignored(objects: ObjectStore, condition: str) -> RefusedError:
    return RefusedError(
        f"{objects.address}: this server ignores {condition} of a write, so that two people who promote at once would"
        " overwrite each other; nothing is written. Use one that honours conditional writes, as S3 does, and see that"
        " no proxy takes the header away"
    )
