"""Signs the registry's documents, and refuses those that are not what a trusted key signed.

A document is a DSSE envelope (Dead Simple Signing Envelope, of in-toto and Sigstore): the bytes, their type and any
number of signatures over both. OpenSSF's model-signing signs folders of files and reaches for Sigstore's services;
manifests and moves of channels are small JSON documents that hold the digests of all files, and what model-signing puts
around its own is such an envelope as well. The digest beside it shows damage where nobody signs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import RefusedError
from tasks.registry.keys import ROLES_FILE, read_signer, read_trust
from tasks.registry.model_signature import open_bundle, sign_files
from tasks.registry.moves import ChannelName
from tasks.store.digests import canonical_json, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner
    from typing_extensions import Self

    from tasks.registry.keys import TrustedKey


@dataclass(frozen=True)
class Signature:
    """Ids of the keys that an envelope says signed it (`claimed`), and of the trusted ones that did (`verified`).

    `verified` is None where no trust root says whose signatures count, and empty for a move whose key was withdrawn
    since: the moves after it vouch for it. `names` are what the verified keys are called, with their ids, and
    `unfit` those of trusted keys that signed and may not sign this. `needed` is how many have to sign.
    """

    claimed: tuple[str, ...]
    verified: tuple[str, ...] | None
    names: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    needed: int = 1

    @property
    def words(self) -> str:
        """What people are told: `signed by …`, `signed, not verified`, `unsigned`, or that its key is not trusted."""
        if self.verified:
            return f"signed by {', '.join(self.names)}"
        if self.unfit:
            return f"signed by {', '.join(self.unfit)}, which may not sign this"
        if not self.claimed:
            return "unsigned"
        return "signed, not verified" if self.verified is None else "signed by a key that is not trusted"

    def require_trusted(self, what: str) -> None:
        """Check that a trusted key signed that may sign this, or as many as are needed, where a trust root is set.

        Raises:
            RefusedError: none did, or too few; the message starts with `what`.
        """
        if self.verified is None or len(self.verified) >= self.needed:
            return
        if self.verified:
            raise RefusedError(
                f"{what} is an override into production, {self.words} alone; a second trusted key has to sign it:"
                " add --second-key FILE, or `enginegate resign` it with both"
            )
        if self.unfit:
            raise RefusedError(
                f"{what} is signed by {', '.join(self.unfit)}, whose role does not allow it; have a key"
                f" sign it that may (see {ROLES_FILE} in ENGINEGATE_TRUST)"
            )
        who = "by keys that are not trusted" if self.claimed else "by nobody"
        raise RefusedError(
            f"{what} is signed {who}; sign it with a trusted key, or add its public key to ENGINEGATE_TRUST. Where its"
            " key was withdrawn, see `enginegate resign`"
        )


@dataclass(frozen=True)
class Signed:
    """What an envelope held: a JSON document, the digest of its bytes, and who signed it."""

    document: dict[str, Any]
    digest: str
    signature: Signature


class Signing:
    """The keys that sign here, if any, and those whose signatures are trusted, if a trust root is configured."""

    def __init__(
        self, *signers: CryptoSigner, trusted: tuple[TrustedKey, ...] | None = None, asks_two: bool = True
    ) -> None:
        self._signers, self.trusted, self._asks_two = signers, trusted, asks_two

    @classmethod
    def from_files(cls, key: Path | None, trust: Path | None) -> Self:
        """Read a private key (PEM, PKCS #8), and a file or folder of public keys and certificates (PEM).

        Raises:
            InputError: see `read_signer` and `read_trust`.
        """
        return cls(*([read_signer(key)] if key else []), trusted=read_trust(trust) if trust else None)

    def with_second(self, key: Path) -> Signing:
        """The same with one more key that signs, each envelope by both.

        Raises:
            InputError: see `read_signer`.
        """
        return Signing(*self._signers, read_signer(key, "--second-key"), trusted=self.trusted)

    @property
    def verifies(self) -> bool:
        """Whether unsigned documents are refused."""
        return self.trusted is not None

    def sign_model(self, name: str, files: Mapping[str, str]) -> dict[str, Any] | None:
        """The bundle of model.sig over files, digests by path, by the first key; None where none signs."""
        return sign_files(self._signers[0], name, files) if self._signers else None

    def require_model(self, bundle: object, manifest: dict[str, Any], files: Mapping[str, str], what: str) -> None:
        """Check that a bundle signs the files of a manifest, by a key that may sign that where a trust root is set.

        Raises:
            RefusedError: it does not.
        """
        envelope = open_bundle(bundle, str(manifest["engine_id"]), files, what)
        self._signature(envelope, tuple(sorted(envelope.signatures)), "manifest", manifest).require_trusted(what)

    def seal(self, kind: str, document: dict[str, Any], **beside: object) -> bytes:
        """The document in an envelope, signed where there is a key; `beside` lies in the envelope, unsigned by it.

        Raises:
            RefusedError: there is a trust root, and it would not trust this: nobody here could read it again.
        """
        from securesystemslib.dsse import Envelope  # noqa: PLC0415 - few commands need it

        payload = canonical_json(document)
        envelope = Envelope(payload, _type(kind), {})
        for signer in self._signers:
            envelope.sign(signer)
        sealed = canonical_json({**beside, **envelope.to_dict(), "digest": digest_bytes(payload)})
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
            kind: `manifest`, `move` or `step`.
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
            or digest != digest_bytes(envelope.payload)
            or not isinstance(document, dict)
        ):
            raise RefusedError(f"{what} was changed after it was written; do not use it")
        return Signed(document, digest, self._signature(envelope, claimed, kind, document))

    def _signature(
        self, envelope: Envelope, claimed: tuple[str, ...], kind: str, document: dict[str, Any]
    ) -> Signature:
        """Who signed, by the trusted keys and what each of them may sign."""
        if self.trusted is None:
            return Signature(claimed, None)
        signed = [one for one in self.trusted if one.key.keyid in claimed and _has_signed(envelope, one)]
        # By key: one that lies there as a key and as a certificate is one person's signature.
        fit = {one.key.keyid: one for one in signed if one.permission.allows(kind, document)}
        return Signature(
            claimed,
            tuple(sorted(fit)),
            names=tuple(fit[keyid].words for keyid in sorted(fit)),
            unfit=tuple(one.words for one in signed if one.key.keyid not in fit),
            needed=self._needed(kind, document),
        )

    def _needed(self, kind: str, document: dict[str, Any]) -> int:
        """An override into production takes two people, where two keys are trusted to make it."""
        is_override = kind == "move" and document.get("override") is not None
        if not self._asks_two or not is_override or document.get("channel") != ChannelName.PRODUCTION.value:
            return 1
        able = {one.key.keyid for one in self.trusted or () if one.permission.allows(kind, document)}
        return min(2, max(1, len(able)))


def _has_signed(envelope: Envelope, trusted: TrustedKey) -> bool:
    from securesystemslib.exceptions import VerificationError  # noqa: PLC0415

    try:
        envelope.verify([trusted.key], 1)
    except VerificationError:
        return False
    return True


def _type(kind: str) -> str:
    return f"application/vnd.enginegate.{kind}+json"
