"""Pointers: what the models topic says of one version of a detector, as bytes and as a value.

In: key and value of a record. Out: `Pointer`, checked to the last field, or `PointerProblem`. Remembers: nothing.
A pointer is small and may be read by anybody; the bundle it names lies elsewhere and is verified against it.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

V = 1
# Many times what lineage, a gate's report and a history of hundreds of transitions take.
BYTES_MAX = 256 << 10
VERSION_MAX = 2**31 - 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"

PRUNED = "its bundle was pruned"  # the reason that a pointer gives then

State = Literal["candidate", "shadow", "live", "retired"]
Version = Annotated[int, Meta(ge=1, le=VERSION_MAX)]
Moment = Annotated[int, Meta(ge=0, le=2**53, description="Epoch milliseconds.")]


class Check(Struct, frozen=True, forbid_unknown_fields=True):
    """One number of a gate, and what it had to be."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    detail: str = ""


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured before the version could go live."""

    passed: bool
    checks: tuple[Check, ...] = ()


class Transition(Struct, frozen=True, forbid_unknown_fields=True):
    """A change of state. `rolled_back_from`: the version whose place an older one took, the only way to go back."""

    state: State
    at_ms: Moment
    reason: str | None = None
    rolled_back_from: Version | None = None


class Pointer(Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a detector: which bundle it is, where it lies, and what it is used for.

    The signature is Ed25519 over `canonical`: what never changes. State, gate and history are as trustworthy as the
    right to write on the models topic.
    """

    v: Literal[1]
    detector: Annotated[str, Meta(pattern=NAME)]
    version: Version
    digest: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", description="SHA-256 of the bundle's manifest.")]
    state: State
    location: Annotated[str, Meta(min_length=1, max_length=1000, description="kafka:TOPIC#OFFSET, or an fsspec URL.")]
    bytes: Annotated[int, Meta(ge=1, le=2**40, description="Of the bundle's files together.")]
    lineage: dict[str, Any]
    gate: Gate | None = None
    reason: Annotated[str | None, Meta(description="Who forced what, or why it is in this state.")] = None
    history: tuple[Transition, ...] = ()
    signature: Annotated[str, Meta(max_length=128, description="Ed25519, base64.")] | None = None

    @property
    def name(self) -> str:
        """As it is written in a configuration and in messages."""
        return f"{self.detector}@{self.version}"


class PointerProblem(ValueError):
    """A record that is no pointer. `reason` is "pointer", or "newer" if a newer Tailrace wrote it."""

    def __init__(self, words: str, reason: str = "pointer") -> None:
        super().__init__(words)
        self.reason = reason


def key_of(pointer: Pointer) -> bytes:
    """The record's key.

    >>> key_of(decode(b"pump/3", EXAMPLE))
    b'pump/3'
    """
    return f"{pointer.detector}/{pointer.version}".encode()


def encode(pointer: Pointer) -> bytes:
    """The record's value: JSON. Readers refuse more than BYTES_MAX."""
    return msgspec.json.encode(pointer)


def decode(key: bytes | None, value: bytes) -> Pointer:
    """The pointer in a record. Raises PointerProblem."""
    if len(value) > BYTES_MAX:
        raise PointerProblem(f"{len(value)} bytes where a pointer has {BYTES_MAX} at most")
    _check_form(value)
    try:
        pointer = msgspec.json.decode(value, type=Pointer)
    except (msgspec.DecodeError, RecursionError, ValueError) as problem:
        raise PointerProblem(f"it is no pointer: {problem}") from None
    # A pattern's $ lets a line end pass.
    if not re.fullmatch(NAME, pointer.detector) or len(pointer.digest) != len("sha256:") + 64:
        raise PointerProblem("detector or digest holds a line end")
    if key != key_of(pointer):
        raise PointerProblem(f"its key is {key!r} and it speaks of {pointer.name}")
    return pointer


def canonical(pointer: Pointer) -> bytes:
    """What is signed: the fields that never change, as JSON with sorted names and no spaces."""
    fixed = ("detector", "version", "digest", "location", "bytes", "lineage")
    signed = {name: getattr(pointer, name) for name in fixed}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def with_state(pointer: Pointer, transition: Transition) -> Pointer:
    """The pointer after a change of state."""
    return msgspec.structs.replace(
        pointer, state=transition.state, reason=transition.reason, history=(*pointer.history, transition)
    )


def with_fields(pointer: Pointer, **changes: Any) -> Pointer:
    """The pointer with other values."""
    return msgspec.structs.replace(pointer, **changes)


def _check_form(value: bytes) -> None:
    """Raises PointerProblem for what a decoder may read in two ways, and for what a newer Tailrace wrote."""
    try:
        data = json.loads(value, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise PointerProblem(f"it is not JSON: {problem}") from None
    if not isinstance(data, dict):
        raise PointerProblem("it is no JSON object")
    v = data.get("v")
    if isinstance(v, int) and not isinstance(v, bool) and v > V:
        raise PointerProblem(
            f"it was written by a newer Tailrace (v{v}; this one reads v{V}): update this one", "newer"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no number")


EXAMPLE = (
    b'{"v":1,"detector":"pump","version":3,"digest":"sha256:' + b"0" * 64 + b'","state":"candidate",'
    b'"location":"kafka:models-data#0","bytes":1000,"lineage":{"seed":0}}'
)
