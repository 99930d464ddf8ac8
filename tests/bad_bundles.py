"""Bundles that nobody should open: what is done to the three files of a good one, by kind."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from models.bundle import ARRAYS, GOLDEN, MANIFEST, _digest

Files = dict[str, bytes]
Damage = Callable[[Files], Files]


class Boom:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def declared(files: Files, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Files:
    """The files with a manifest that names them as they are, as somebody writes it who knows how."""
    manifest = json.loads(files[MANIFEST])
    manifest.pop("digest")
    for name in (ARRAYS, GOLDEN):
        manifest["files"][name] = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    change(manifest)
    return {**files, MANIFEST: json.dumps({**manifest, "digest": _digest(manifest)}).encode()}


def replaced(name: str, data: Callable[[bytes], bytes], *, told: bool = True) -> Damage:
    """Another content of one file; `told`: the manifest names it."""
    return lambda files: (declared if told else dict)({**files, name: data(files[name])})  # type: ignore[operator]


def arrays(name: str, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Damage:
    """Other arrays in one of the two files, named as they are."""

    def damage(files: Files) -> Files:
        made = change(dict(load(files[name])))
        shapes = {key: [list(array.shape), str(array.dtype)] for key, array in made.items()}
        again = {**files, name: save({key: np.ascontiguousarray(array) for key, array in made.items()})}
        return declared(again, lambda m: m.update(arrays=shapes) if name == ARRAYS else None)

    return damage


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Another manifest with a digest that fits it."""

    def work(data: dict[str, Any]) -> None:
        change(data)

    return lambda files: declared(files, work)


def text(old: str, new: str) -> Damage:
    """Another text of the manifest, its digest untouched."""
    return replaced(MANIFEST, lambda data: data.decode().replace(old, new, 1).encode(), told=False)


def header(length: int, body: bytes) -> bytes:
    """A safetensors file of a header that says it is so long."""
    return struct.pack("<Q", length) + body


def torch_zip() -> bytes:
    """What torch.save writes: a zip with a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Boom()))
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def _with(key: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], dict[str, np.ndarray]]:
    return lambda found: {**found, key: value(found[key])}


def _overlapping() -> bytes:
    one = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    body = json.dumps({"a": one, "b": one}).encode()
    return header(len(body), body + b"\0" * 8)


def _all_huge(numbers: dict[str, Any]) -> None:
    numbers.update(dict.fromkeys(numbers, HUGE))


def _first(found: dict[str, np.ndarray]) -> str:
    return next(name for name, array in found.items() if array.dtype.kind == "f" and array.size)


NAN = "NaN"
HUGE = 10**15

# kind: what is done, and the reason for which it must be refused
BAD: dict[str, tuple[Damage, str]] = {
    "a truncated manifest": (replaced(MANIFEST, lambda d: d[:-9], told=False), "content"),
    "an empty manifest": (replaced(MANIFEST, lambda d: b"", told=False), "content"),
    "a manifest that is a picture": (replaced(MANIFEST, lambda d: b"\x89PNG\r\n\x1a\n" + d, told=False), "content"),
    "a manifest that is a pickle": (replaced(MANIFEST, lambda d: pickle.dumps(Boom()), told=False), "content"),
    "a manifest that is a list": (replaced(MANIFEST, lambda d: b"[]", told=False), "content"),
    "a manifest nested too deeply": (replaced(MANIFEST, lambda d: b'{"a":' * 100_000, told=False), "content"),
    "a name twice": (text('"kind":', '"kind": "tokens", "kind":'), "content"),
    "NaN for a number": (text('"schema_version": 1', f'"schema_version": {NAN}'), "content"),
    "a number of thousands of digits": (text('"schema_version": 1', f'"schema_version": {"9" * 9999}'), "content"),
    "a number beyond all": (text('"schema_version": 1', '"schema_version": 1e999'), "content"),
    "an edited manifest": (text('"kind": "sensors"', '"kind": "tokens"'), "digest"),
    "a newer schema": (manifest(lambda m: m.update(schema_version=2)), "schema"),
    "an unknown kind": (manifest(lambda m: m.update(kind="os")), "content"),
    "a kind that is a list": (manifest(lambda m: m.update(kind=["sensors"])), "content"),
    "no settings": (manifest(lambda m: m.pop("settings")), "content"),
    "settings of a wrong type": (manifest(lambda m: m.update(settings=[1])), "content"),
    "another kind's settings": (manifest(lambda m: m.update(kind="tokens")), "schema"),
    "an older version's settings": (manifest(lambda m: m["settings"]["fitted"].pop("networks")), "schema"),
    "no list of files": (manifest(lambda m: m.update(files=[])), "content"),
    "files elsewhere": (manifest(lambda m: m.update(files={f"../{ARRAYS}": {"bytes": 1, "sha256": ""}})), "content"),
    "a file of negative length": (manifest(lambda m: m["files"][ARRAYS].update(bytes=-1)), "size"),
    "a file of endless length": (manifest(lambda m: m["files"][ARRAYS].update(bytes=1e300)), "content"),
    "shapes that are none": (manifest(lambda m: m["arrays"].update(unit=7)), "content"),
    "a risk of 2": (manifest(lambda m: m["settings"].update(risk=2)), "content"),
    "a risk in words": (manifest(lambda m: m["settings"].update(risk="low")), "content"),
    "sensors without end": (manifest(lambda m: m["settings"]["fitted"].update(sensors=["s"] * 10_000)), "content"),
    "a grid without end": (manifest(lambda m: _all_huge(m["settings"]["fitted"]["grid"])), "content"),
    "truncated arrays": (replaced(ARRAYS, lambda d: d[:-100], told=False), "digest"),
    "truncated arrays, declared": (replaced(ARRAYS, lambda d: d[:-100]), "content"),
    "no arrays at all": (replaced(ARRAYS, lambda d: b""), "content"),
    "arrays that are a pickle": (replaced(ARRAYS, lambda d: pickle.dumps(Boom())), "content"),
    "arrays that are torch's": (replaced(ARRAYS, lambda d: torch_zip()), "content"),
    "arrays that are numpy's": (replaced(ARRAYS, lambda d: b"\x93NUMPY\x01\0" + pickle.dumps(Boom())), "content"),
    "a header longer than the file": (replaced(ARRAYS, lambda d: header(len(d) * 2, d[8:])), "content"),
    "a header of 2 to the 63": (replaced(ARRAYS, lambda d: header(2**63, d[8:])), "content"),
    "a header of 200 MB of nothing": (replaced(ARRAYS, lambda d: header(200 << 20, b" " * 1000)), "content"),
    "a header that is no JSON": (replaced(ARRAYS, lambda d: header(16, b"\xff" * 16)), "content"),
    "a header nested too deeply": (replaced(ARRAYS, lambda d: header(90_000, b'{"a":' * 18_000)), "content"),
    "tensors over one another": (replaced(ARRAYS, lambda d: _overlapping()), "content"),
    "an array of a wrong type": (arrays(ARRAYS, _with("unit", lambda a: a.astype(np.float32))), "content"),
    "an array of a wrong shape": (arrays(ARRAYS, _with("unit", lambda a: np.repeat(a, 2))), "content"),
    "an array of no dimensions": (arrays(ARRAYS, _with("unit", lambda a: np.float64(1.0).reshape(()))), "content"),
    "weights that are no numbers": (arrays(ARRAYS, lambda f: {**f, _first(f): f[_first(f)] * np.nan}), "content"),
    "infinite weights": (arrays(ARRAYS, lambda f: {**f, _first(f): np.full_like(f[_first(f)], np.inf)}), "content"),
    "an array too many": (arrays(ARRAYS, lambda f: {**f, "extra": np.ones(3)}), "content"),
    "an array too few": (arrays(ARRAYS, lambda f: {k: v for k, v in f.items() if k != "unit"}), "content"),
    "a flipped bit": (replaced(ARRAYS, lambda d: d[:-40] + bytes([d[-40] ^ 1]) + d[-39:], told=False), "digest"),
    "other weights": (arrays(ARRAYS, _with("unit", lambda a: a * np.linspace(0.2, 5, len(a)))), "golden"),
    "files swapped": (lambda f: {**f, ARRAYS: f[GOLDEN], GOLDEN: f[ARRAYS]}, "digest"),
    "other golden scores": (arrays(GOLDEN, _with("scores", lambda a: a + 1)), "golden"),
    "golden scores that are no numbers": (arrays(GOLDEN, _with("scores", lambda a: a * np.nan)), "golden"),
    "golden scores of a wrong type": (arrays(GOLDEN, _with("scores", lambda a: a.astype(np.float32))), "content"),
    "too few golden scores": (arrays(GOLDEN, _with("scores", lambda a: a[:-1])), "golden"),
    "golden windows outside of their samples": (arrays(GOLDEN, _with("last", lambda a: a + HUGE)), "content"),
    "golden windows before their samples": (arrays(GOLDEN, _with("first", lambda a: a - HUGE)), "content"),
    "golden windows as fractions": (arrays(GOLDEN, _with("first", lambda a: a.astype(np.float64))), "content"),
    "golden windows in two dimensions": (arrays(GOLDEN, _with("entity", lambda a: a[:, None])), "content"),
    "golden samples of unknown sensors": (arrays(GOLDEN, _with("sensor", lambda a: a + 9)), "content"),
    "golden samples of negative sensors": (arrays(GOLDEN, _with("sensor", lambda a: a - 9)), "content"),
    "no golden windows' ends": (arrays(GOLDEN, lambda f: {k: v for k, v in f.items() if k != "last"}), "content"),
}  # fmt: skip
