"""Keys and certificates of a test's own."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tasks.registry.keys import TrustedKey
from tasks.registry.signing import Signing

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
    from securesystemslib.signer import CryptoSigner

KINDS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


def write_key(folder: Path, name: str = "ann", kind: str = "ed25519") -> CertificateIssuerPrivateKeyTypes:
    """Make a key; writes `NAME.key` and `NAME.pem`."""
    folder.mkdir(exist_ok=True)
    key = KINDS[kind]()
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(public)
    return key


def write_certificate(path: Path, key: CertificateIssuerPrivateKeyTypes) -> None:
    """A certificate of a key, signed by itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ann")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    path.write_bytes(builder.sign(key, algorithm).public_bytes(Encoding.PEM))


def signing_as(folder: Path, name: str = "ann", trusted: str | None = None) -> Signing:
    """Sign as one, and trust one: the same unless another is named."""
    for one in {name, trusted or name}:
        if not (folder / f"{one}.key").exists():
            write_key(folder, one)
    return Signing.from_files(folder / f"{name}.key", folder / f"{trusted or name}.pem")


def trust(*signers: CryptoSigner) -> tuple[TrustedKey, ...]:
    """Trust the public keys of signers for everything."""
    return tuple(TrustedKey(signer.public_key, f"key-{number}") for number, signer in enumerate(signers, start=1))
