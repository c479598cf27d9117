"""Signs the registry's documents, and refuses those that are not what a trusted key signed.

A document is a DSSE envelope (Dead Simple Signing Envelope, of in-toto and Sigstore): the bytes, their type and any
number of signatures over both. OpenSSF's model-signing signs folders of files and reaches for Sigstore's services;
manifests and moves of channels are small JSON documents that hold the digests of all files, and what model-signing puts
around its own is such an envelope as well. The digest beside it shows damage where nobody signs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError, RefusedError
from tasks.store.digests import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

_SHOWN = 12


@dataclass(frozen=True)
class Signature:
    """Ids of the keys that an envelope says signed it (`claimed`), and of the trusted ones that did (`verified`).

    `verified` is None where no trust root says whose signatures count, and empty for a move whose key was withdrawn
    since: the moves after it vouch for it.
    """

    claimed: tuple[str, ...]
    verified: tuple[str, ...] | None

    @property
    def words(self) -> str:
        """What people are told: `signed by …`, `signed, not verified`, `unsigned`, or that its key is not trusted."""
        if self.verified:
            return f"signed by {', '.join(key[:_SHOWN] for key in self.verified)}"
        if not self.claimed:
            return "unsigned"
        return "signed, not verified" if self.verified is None else "signed by a key that is not trusted"

    def require_trusted(self, what: str) -> None:
        """Check that a trusted key signed, where a trust root is set.

        Raises:
            RefusedError: none did; the message starts with `what`.
        """
        if self.verified is None or self.verified:
            return
        who = "by keys that are not trusted" if self.claimed else "by nobody"
        raise RefusedError(
            f"{what} is signed {who}; sign it with a trusted key, or add its public key to ENGINEGATE_TRUST"
        )


@dataclass(frozen=True)
class Signed:
    """What an envelope held: a JSON document, the digest of its bytes, and who signed it."""

    document: dict[str, Any]
    digest: str
    signature: Signature


class Signing:
    """The key that signs here, if any, and the keys whose signatures are trusted, if a trust root is configured."""

    def __init__(self, signer: CryptoSigner | None = None, trusted: tuple[SSlibKey, ...] | None = None) -> None:
        self._signer = signer
        self._trusted = trusted

    @classmethod
    def from_files(cls, key: Path | None, trust: Path | None) -> Signing:
        """Read a private key (PEM, PKCS #8), and a file or folder of public keys and certificates (PEM).

        Raises:
            InputError: a file cannot be read or holds no such key. The message never quotes it.
        """
        return cls(_read_signer(key) if key else None, _read_trust(trust) if trust else None)

    @property
    def verifies(self) -> bool:
        """Whether unsigned documents are refused."""
        return self._trusted is not None

    def seal(self, kind: str, document: dict[str, Any]) -> bytes:
        """The document in an envelope, signed where there is a key.

        Raises:
            RefusedError: there is a trust root, and it would not trust this: nobody here could read it again.
        """
        from securesystemslib.dsse import Envelope  # noqa: PLC0415 - few commands need it

        payload = canonical_json(document)
        envelope = Envelope(payload, _type(kind), {})
        if self._signer is not None:
            envelope.sign(self._signer)
        sealed = canonical_json({**envelope.to_dict(), "digest": _digest(payload)})
        if self.verifies:
            self._require_trusted(kind, sealed)
        return sealed

    def _require_trusted(self, kind: str, sealed: bytes) -> None:
        try:
            self.open(kind, sealed, f"the {kind} that this host writes")
        except RefusedError as error:
            raise RefusedError(
                f"{error}. ENGINEGATE_SIGNING_KEY names the key that signs here; nothing was written"
            ) from None

    def open(self, kind: str, content: bytes, what: str) -> Signed:
        """What an envelope holds, signed by a trusted key where a trust root is set; see `unseal`.

        Raises:
            RefusedError: it is damaged, of another kind, or not signed by a trusted key.
        """
        signed = self.unseal(kind, content, what)
        signed.signature.require_trusted(what)
        return signed

    def unseal(self, kind: str, content: bytes, what: str) -> Signed:
        """What an envelope holds and who signed it, which follows from its bytes; the caller says if that is enough.

        Args:
            kind: `manifest` or `move`.
            content: of the envelope.
            what: names it in errors.

        Raises:
            RefusedError: it is damaged or of another kind.
        """
        from securesystemslib.dsse import Envelope  # noqa: PLC0415
        from securesystemslib.exceptions import FormatError  # noqa: PLC0415

        try:
            raw = json.loads(content)
            digest = raw.pop("digest")
            envelope = Envelope.from_dict(raw)
            document = json.loads(envelope.payload)
            claimed = tuple(sorted(envelope.signatures))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError):
            raise RefusedError(f"{what} is damaged; it cannot be read") from None
        if (
            envelope.payload_type != _type(kind)
            or digest != _digest(envelope.payload)
            or not isinstance(document, dict)
        ):
            raise RefusedError(f"{what} was changed after it was written; do not use it")
        return Signed(document, digest, Signature(claimed, self._verified(envelope)))

    def _verified(self, envelope: Envelope) -> tuple[str, ...] | None:
        """Ids of the trusted keys that signed; None where no trust root is set."""
        from securesystemslib.exceptions import VerificationError  # noqa: PLC0415

        if self._trusted is None:
            return None
        try:
            return tuple(sorted(envelope.verify(list(self._trusted), 1)))
        except VerificationError:
            return ()


def _type(kind: str) -> str:
    return f"application/vnd.enginegate.{kind}+json"


def _digest(payload: bytes) -> str:
    return f"sha256:{sha256(payload).hexdigest()}"


def _read_signer(path: Path) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415

    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
    except OSError as error:
        raise InputError(
            f"ENGINEGATE_SIGNING_KEY: {path} cannot be read ({error.strerror}); correct the path"
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"ENGINEGATE_SIGNING_KEY: {path} is no private key of Ed25519, ECDSA or RSA in PEM (PKCS #8, without a"
            " password); make one with `openssl genpkey -algorithm ed25519`"
        ) from None


def _read_trust(path: Path) -> tuple[SSlibKey, ...]:
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"ENGINEGATE_TRUST: {path} holds no .pem file, so nothing would be trusted; put keys there")
    return tuple(_read_public(file) for file in files)


def _read_public(path: Path) -> SSlibKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415

    try:
        content = path.read_bytes()
        if content.count(b"-----BEGIN ") > 1:
            raise InputError(f"ENGINEGATE_TRUST: {path} holds several keys; put each into a .pem file of its own")
        certificate = b"BEGIN CERTIFICATE" in content
        public = load_pem_x509_certificate(content).public_key() if certificate else load_pem_public_key(content)
        return SSlibKey.from_crypto(public)
    except OSError as error:
        raise InputError(f"ENGINEGATE_TRUST: {path} cannot be read: {error.strerror}; correct it") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"ENGINEGATE_TRUST: {path} is no public key or certificate in PEM; replace it") from None
