"""`model.sig`: a signature over an engine's files that OpenSSF's model-signing writes too, and checks.

Inside this project the manifest vouches for an engine. This is for tools that know nothing of manifests, such as
`model_signing verify key`. It is a Sigstore bundle around an in-toto statement of every file's digest:
https://github.com/sigstore/model-transparency. That package signs through a network and brings fifteen others, and its
keys are ECDSA alone; the format is one JSON document, so it is written here, and held against the package in a test.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tasks.errors import RefusedError
from tasks.store.digests import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

MODEL_SIGNATURE = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
# Both carry signatures of their own.
_UNSIGNED = ("manifest.json", MODEL_SIGNATURE)


def sign_files(signer: CryptoSigner, name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """A bundle that signs `files`, digests (`sha256:…`) by path in the folder of the model called `name`."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - few commands need it

    envelope = Envelope(canonical_json(_statement(name, files)), _PAYLOAD, {})
    envelope.sign(signer)
    return {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(signer.public_key)}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }


def open_bundle(bundle: object, name: str, files: Mapping[str, str], what: str) -> Envelope:
    """The envelope of a bundle that is about these files and no others; its signatures are not looked at.

    Raises:
        RefusedError: it is damaged, or about other files.
    """
    from securesystemslib.dsse import Envelope  # noqa: PLC0415
    from securesystemslib.exceptions import FormatError  # noqa: PLC0415

    try:
        envelope = Envelope.from_dict(json.loads(json.dumps(bundle))["dsseEnvelope"])
        found = json.loads(envelope.payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError):
        raise RefusedError(f"{what} is damaged; it cannot be read") from None
    if envelope.payload_type != _PAYLOAD or found != _statement(name, files):
        raise RefusedError(f"{what} is about other files than its manifest; do not use it")
    return envelope


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    resources = [
        {"name": path, "algorithm": "sha256", "digest": files[path].removeprefix("sha256:")} for path in sorted(files)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_UNSIGNED),
            },
            "resources": resources,
        },
    }


def _hint(key: SSlibKey) -> str:
    """What a verifier finds the key by: the SHA-256 of its PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key  # noqa: PLC0415

    text = key.keyval["public"]
    public = (
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        if key.keytype == "ed25519"
        else load_pem_public_key(text.encode())
    )
    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
