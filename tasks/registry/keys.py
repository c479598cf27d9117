"""The keys whose signatures count: what each is called, and what it may sign.

A folder of keys may hold `roles.yaml`, with a row for each of its files:

    ci.pem:   {roles: [build, promote], channels: [candidate]}
    lead.pem: {roles: [promote], models: [essay-scorer]}

`build` signs manifests of engines, `promote` moves of channels; `models` and `channels` narrow that down. A step of a
rollout shifts production's traffic to what `canary` points at: a key signs it that may promote to both. Without
roles.yaml every key may sign everything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.declared import Frozen, Name
from tasks.errors import InputError, printable
from tasks.model.documents import parse, read_yaml
from tasks.registry.moves import ChannelName

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate
    from securesystemslib.signer import CryptoSigner, SSlibKey

ROLES_FILE = "roles.yaml"
SHOWN_CHARACTERS = 12
_OF_A_STEP = {ChannelName.CANARY.value, ChannelName.PRODUCTION.value}


class Role(str, Enum):
    """What a key is for."""

    BUILD = "build"
    """Signs the manifests of engines."""
    PROMOTE = "promote"
    """Signs the moves of channels, and the steps of rollouts."""


class Permission(Frozen):
    """A row of roles.yaml; models and channels that are left out are all of them."""

    roles: tuple[Role, ...] = Field(min_length=1)
    models: tuple[Name, ...] | None = Field(default=None, min_length=1)
    channels: tuple[ChannelName, ...] | None = Field(default=None, min_length=1)

    def allows(self, kind: str, document: dict[str, Any]) -> bool:
        """Whether it covers a manifest, a move or a step, given as its document; False for anything else."""
        cell = document.get("cell")
        model = cell.get("model") if isinstance(cell, dict) else document.get("model")
        if self.models is not None and model not in self.models:
            return False
        if kind == "manifest":
            return Role.BUILD in self.roles
        if kind not in {"move", "step"} or Role.PROMOTE not in self.roles:
            return False
        if self.channels is None:
            return True
        asked = _OF_A_STEP if kind == "step" else {document.get("channel")}
        return asked <= {channel.value for channel in self.channels}


EVERYTHING = Permission(roles=tuple(Role))


@dataclass(frozen=True)
class TrustedKey:
    """A public key, what people call it, and what it may sign."""

    key: SSlibKey
    name: str
    permission: Permission = EVERYTHING

    @property
    def words(self) -> str:
        """`lead (3f2a91bc4d5e)`."""
        return f"{self.name} ({self.key.keyid[:SHOWN_CHARACTERS]})"


def read_signer(path: Path, setting: str = "ENGINEGATE_SIGNING_KEY") -> CryptoSigner:
    """Read a private key (PEM, PKCS #8).

    Raises:
        InputError: the file cannot be read or holds no such key. The message never quotes it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - few commands need it
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415

    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
    except OSError as error:
        raise InputError(f"{setting}: {path} cannot be read ({error.strerror}); correct the path") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{setting}: {path} is no private key of Ed25519, ECDSA or RSA in PEM (PKCS #8, without a"
            " password); make one with `openssl genpkey -algorithm ed25519`"
        ) from None


def read_trust(path: Path) -> tuple[TrustedKey, ...]:
    """Read a file or folder of public keys and certificates (PEM), and what each may sign.

    Raises:
        InputError: a file cannot be read or holds no such key, or roles.yaml has a mistake.
    """
    if not path.is_dir():
        return (read_public(path),)
    files = sorted(path.glob("*.pem"))
    if not files:
        raise InputError(f"ENGINEGATE_TRUST: {path} holds no .pem file, so nothing would be trusted; put keys there")
    permissions = _read_permissions(path / ROLES_FILE, files)
    return tuple(read_public(file, permissions.get(file.name, EVERYTHING)) for file in files)


def _read_permissions(path: Path, files: list[Path]) -> dict[str, Permission]:
    if not os.path.lexists(path):
        near = sorted(one.name for one in path.parent.glob("[Rr][Oo][Ll][Ee][Ss].*"))
        if near:
            raise InputError(f"ENGINEGATE_TRUST: {near[0]} is not read; call it {ROLES_FILE}")
        return {}
    origin = f"ENGINEGATE_TRUST: {ROLES_FILE}"
    rows, names = read_yaml(path), {file.name for file in files}
    for name in sorted({str(name) for name in rows} ^ names):
        problem = "has no row; say what the key may sign, or remove it" if name in names else "is no .pem file there"
        raise InputError(f"{origin}: {name}: {problem}")
    return {name: parse(Permission, row or {}, f"{origin}: {name}") for name, row in rows.items()}


def read_public(path: Path, permission: Permission = EVERYTHING) -> TrustedKey:
    """Read a public key or a certificate (PEM); it is called what its certificate says, else as its file.

    Raises:
        InputError: the file cannot be read, or holds no key or several.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415

    try:
        content = path.read_bytes()
        if content.count(b"-----BEGIN ") > 1:
            raise InputError(f"ENGINEGATE_TRUST: {path} holds several keys; put each into a .pem file of its own")
        if b"BEGIN CERTIFICATE" in content:
            certificate = load_pem_x509_certificate(content)
            return TrustedKey(SSlibKey.from_crypto(certificate.public_key()), _subject(certificate, path), permission)
        return TrustedKey(SSlibKey.from_crypto(load_pem_public_key(content)), printable(path.stem), permission)
    except OSError as error:
        raise InputError(f"ENGINEGATE_TRUST: {path} cannot be read: {error.strerror}; correct it") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"ENGINEGATE_TRUST: {path} is no public key or certificate in PEM; replace it") from None


def _subject(certificate: Certificate, path: Path) -> str:
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable(str(names[0].value) if names else path.stem)
