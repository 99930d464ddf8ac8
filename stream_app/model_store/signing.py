"""Signatures: who published a version. Ed25519 over what never changes of a pointer.

In: keys as files or text, pointers. Out: signed pointers, or BundleRefused. Remembers: nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stream_app.config import Registry
from stream_app.errors import BundleRefused, ConfigurationError
from stream_app.model_store.pointers import Pointer, canonical, with_fields

_RAW_BYTES = 32
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


def make_key(path: Path) -> str:
    """Writes a new private key, which only its owner may read, and gives the public one as `trusted_keys` takes it.

    Raises ConfigurationError where there is a file already.
    """
    key = Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(*form))
    except OSError as problem:
        raise ConfigurationError(f"{path}: {problem.strerror}; a key is never overwritten") from problem
    return public_text(key.public_key())


def public_text(key: Ed25519PublicKey) -> str:
    """32 bytes in base64."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file. Raises ConfigurationError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as problem:
        raise ConfigurationError(f"{path}: {problem.strerror}; tailrace models keygen makes a key") from problem
    except _UNREADABLE as problem:
        raise ConfigurationError(f"{path} holds no private key without a password: {problem}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds a key of another kind than Ed25519")
    return key


def trusted_keys(registry: Registry) -> list[Ed25519PublicKey]:
    """Those of the configuration. Raises ConfigurationError naming the one that is no key."""
    return [_public_key(text) for text in registry.trusted_keys]


def signed(pointer: Pointer, key: Ed25519PrivateKey | None) -> Pointer:
    """The pointer with its signature, or without one."""
    signature = None if key is None else base64.b64encode(key.sign(canonical(pointer))).decode()
    return with_fields(pointer, signature=signature)


def check_signature(pointer: Pointer, registry: Registry) -> None:
    """Raises BundleRefused unless a trusted key signed the pointer, or signatures are not asked for.

    With `allow_unsigned` a signature that is there must still be good, unless there are no keys to tell by.
    """
    keys = trusted_keys(registry)
    if not keys and not registry.allow_unsigned:
        hint = "add the publisher's public key to registry.trusted_keys, or set registry.allow_unsigned: true"
        raise BundleRefused(f"{pointer.name} can't be trusted: no keys are configured; {hint}", "signature")
    if pointer.signature is None:
        if not registry.allow_unsigned:
            raise BundleRefused(f"{pointer.name} is not signed, and registry.allow_unsigned is not set", "unsigned")
        return
    if keys and not any(_is_by(key, pointer) for key in keys):
        raise BundleRefused(f"{pointer.name} is not signed by any of the {len(keys)} trusted keys", "signature")


def _is_by(key: Ed25519PublicKey, pointer: Pointer) -> bool:
    try:
        key.verify(base64.b64decode(pointer.signature or "", validate=True), canonical(pointer))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _public_key(text: str) -> Ed25519PublicKey:
    try:
        raw = base64.b64decode(text, validate=True)
        if len(raw) == _RAW_BYTES:
            return Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError):
        pass  # then it is a file's name
    try:
        key = serialization.load_pem_public_key(Path(text).read_bytes())
    except OSError as problem:
        words = f"registry.trusted_keys: {text!r} is neither 32 bytes in base64 nor a file ({problem.strerror})"
        raise ConfigurationError(words) from None
    except _UNREADABLE as problem:
        raise ConfigurationError(f"registry.trusted_keys: {text} holds no public key: {problem}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"registry.trusted_keys: {text} holds a key of another kind than Ed25519")
    return key
