"""Bundle: everything fitted for one detector, frozen in one folder: `manifest.json` and two safetensors files.

In: a folder. Out: a `Detector` that has reproduced its golden scores, or `BundleProblem`. Remembers: nothing.
Opening executes nothing that the bundle brings: JSON and flat arrays only. What is checked, in order: kind of file and
size, digest of the manifest and of the files, names, shapes, dtypes, finiteness, the kind's layout, golden scores.

A kind's module (`models.sensors_bundle`, `models.token_bundle`) provides
    layout(settings) -> {array name: (shape, dtype name)}      raises KeyError, TypeError, ValueError on wrong settings
    open_bundle(bundle) -> Detector
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.detector import Detector
from models.scenes import F64, Scenes

SCHEMA_VERSION = 1
KINDS = {"sensors": "models.sensors_bundle", "tokens": "models.token_bundle"}
MANIFEST, ARRAYS, GOLDEN = "manifest.json", "arrays.safetensors", "golden.safetensors"
MANIFEST_BYTES_MAX = 16 << 20  # a vocabulary of 100,000 tokens takes about 3 MB
FILE_BYTES_MAX = 1 << 30
GOLDEN_TOLERANCE = 1e-5  # relative to the score, and absolute below 1
TAIL = "tail/"  # prefix of the arrays in `Bundle.tail`

_FORM = {"settings": dict, "tail": dict, "lineage": dict, "arrays": dict, "files": dict}
_GOLDEN_DTYPES = {"entity": "int32", "ended": "bool", "sensor": "int32", "value": "float64"}  # int64 otherwise
# What code meets that computes with settings and arrays which nobody would have written.
_WRONG_NUMBERS: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError, LookupError)
_WRONG_NUMBERS += (MemoryError, RuntimeError, TypeError, ValueError)

Arrays = dict[str, NDArray[Any]]
Layout = Mapping[str, tuple[tuple[int, ...], str]]


class BundleProblem(ValueError):
    """A bundle that is not what it says it is. What to do: publish it again from its source.

    `reason`: digest, schema, size, missing, golden, or content for all else.
    """

    def __init__(self, words: str, reason: str = "content") -> None:
        super().__init__(words)
        self.reason = reason


@dataclass(frozen=True)
class Golden:
    """A few windows and the scores they gave when the bundle was written."""

    scenes: Scenes
    scores: F64  # [w]


@dataclass(frozen=True)
class Bundle:
    """What is written and read. `settings` is JSON and holds the seed; `lineage` says what it was trained on."""

    kind: str
    settings: dict[str, Any]
    arrays: Arrays
    golden: Golden
    tail: dict[str, Any] = field(default_factory=dict)  # numbers, texts and arrays
    lineage: dict[str, Any] = field(default_factory=dict)
    digest: str = ""  # "sha256:..." of the manifest; set by `write` and `read`


def write(folder: Path, bundle: Bundle) -> str:
    """Writes the bundle into a folder, which is made, and returns its digest. Files of an older bundle are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tail_arrays = {TAIL + name: value for name, value in bundle.tail.items() if isinstance(value, np.ndarray)}
    arrays = {**bundle.arrays, **tail_arrays}
    golden = {f.name: getattr(bundle.golden.scenes, f.name) for f in dataclasses.fields(Scenes)}
    packed = {ARRAYS: _packed(arrays), GOLDEN: _packed({**golden, "scores": bundle.golden.scores})}
    for name, data in packed.items():
        (folder / name).write_bytes(data)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": bundle.kind,
        "settings": bundle.settings,
        "tail": {name: value for name, value in bundle.tail.items() if not isinstance(value, np.ndarray)},
        "lineage": bundle.lineage,
        "arrays": {name: [list(a.shape), str(a.dtype)] for name, a in sorted(arrays.items())},
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in packed.items()},
    }
    digest = _digest(manifest)
    text = json.dumps({**manifest, "digest": digest}, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return digest


def read(folder: Path, digest: str | None = None) -> Bundle:
    """The verified content of a folder, not yet opened as a detector. `digest`: what the bundle must be, where known.

    Raises BundleProblem that names the file and what was expected.
    """
    manifest = _manifest(folder)
    if digest is not None and manifest["digest"] != digest:
        raise BundleProblem(f"{folder} holds {manifest['digest']}, not {digest}", "digest")
    arrays, golden = (_unpacked(folder, name, manifest) for name in (ARRAYS, GOLDEN))
    check_layout(arrays, _declared(manifest))
    _check_finite(arrays)
    scores = golden.pop("scores", np.empty(0))
    if scores.ndim != 1 or scores.dtype != np.float64:
        raise BundleProblem(f"{GOLDEN} holds scores as {scores.dtype}{list(scores.shape)}")
    tail = dict(manifest["tail"]) | {n.removeprefix(TAIL): a for n, a in arrays.items() if n.startswith(TAIL)}
    own = {name: array for name, array in arrays.items() if not name.startswith(TAIL)}
    parts = (manifest["settings"], own, Golden(_scenes(golden), scores), tail, manifest["lineage"], manifest["digest"])
    return Bundle(manifest["kind"], *parts)


def open_detector(folder: Path, digest: str | None = None) -> Detector:
    """The detector in a folder, checked down to its golden scores. Raises BundleProblem."""
    bundle = read(folder, digest)
    module = importlib.import_module(KINDS[bundle.kind])
    try:
        check_layout(bundle.arrays, module.layout(bundle.settings))
        detector: Detector = module.open_bundle(bundle)
        _check_sensors(bundle.golden.scenes, len(detector.sensors))
        golden = golden_of(detector, bundle.golden.scenes)
    except BundleProblem as problem:
        raise BundleProblem(f"{problem}{_written_by(bundle.lineage)}", problem.reason) from None
    except _WRONG_NUMBERS as problem:
        raise _not_a_detector(folder / MANIFEST, bundle, problem) from None
    _check_golden(golden.scores, bundle.golden.scores)
    return detector


def _not_a_detector(path: Path, bundle: Bundle, problem: Exception) -> BundleProblem:
    """What is said where settings are as they were written, and can't be read: another version wrote them."""
    by = _written_by(bundle.lineage)
    if isinstance(problem, KeyError) and problem.args:
        return BundleProblem(
            f"{path} has no {problem.args[0]!r} in its settings, as this version needs it{by}", "schema"
        )
    return BundleProblem(f"{path} does not describe a detector of {bundle.kind}: {problem!r}{by}")


def _written_by(lineage: Mapping[str, Any]) -> str:
    """Who wrote the bundle and what to do, at the end of a sentence."""
    written = lineage.get("tailrace")
    by = f" (Tailrace {written} wrote it)" if isinstance(written, str) and len(written) < 80 else ""
    return f"{by}. Train the detector again with this version, or open it with the one that wrote it"


def golden_of(detector: Detector, scenes: Scenes) -> Golden:
    """What a detector says of windows of entities that it has never seen."""
    carry = np.repeat(detector.carry_initial, len(np.unique(scenes.entity)))
    return Golden(scenes, detector.score(scenes, carry).score)


def check_layout(arrays: Arrays, layout: Layout) -> None:
    """Raises BundleProblem unless the arrays are exactly those named, each of its shape and dtype."""
    for name in sorted(set(arrays) | set(layout)):
        if name not in arrays:
            raise BundleProblem(f"array {name} is missing")
        if name not in layout:
            raise BundleProblem(f"array {name} is not part of such a bundle")
        got = tuple(arrays[name].shape), str(arrays[name].dtype)
        if got != (tuple(layout[name][0]), layout[name][1]):
            raise BundleProblem(f"array {name} is {got[1]}{list(got[0])} where {layout[name]} was expected")


def _check_finite(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleProblem(
                f"array {name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite"
            )


def _check_sensors(scenes: Scenes, count: int) -> None:
    if len(scenes.sensor) and not 0 <= int(scenes.sensor.min()) <= int(scenes.sensor.max()) < count:
        raise BundleProblem(f"{GOLDEN} holds samples of sensors that the detector's {count} are not")


def _check_golden(got: F64, stored: F64) -> None:
    if got.shape != stored.shape or not np.isfinite(stored).all():
        raise BundleProblem(f"{len(got)} golden windows where {len(stored)} finite scores are stored", "golden")
    gap = np.abs(got - stored) / np.maximum(1, np.abs(stored))
    worst = float(np.max(gap, initial=0.0))
    if not worst <= GOLDEN_TOLERANCE:
        raise BundleProblem(
            f"the golden scores are missed by {worst:.1e} where {GOLDEN_TOLERANCE:.0e} is allowed: "
            "this installation does not compute what the bundle was trained with",
            "golden",
        )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    data = _bytes(path, MANIFEST_BYTES_MAX)
    try:
        manifest = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
        if not isinstance(manifest, dict):
            raise ValueError("it is something else")
        digest = _digest({name: value for name, value in manifest.items() if name != "digest"})
    except (ValueError, RecursionError) as problem:  # 1e999 is read, but can't be written
        raise BundleProblem(f"{path} is not a JSON object: {problem}") from None
    if manifest.get("schema_version") != SCHEMA_VERSION:
        found = f"{path} is not a bundle of schema version {SCHEMA_VERSION}, but {manifest.get('schema_version')!r:.20}"
        raise BundleProblem(found + _written_by({}), "schema")
    if manifest.get("kind") not in list(KINDS):
        raise BundleProblem(f"{path} is of kind {manifest.get('kind')!r:.80}; known are {', '.join(KINDS)}")
    if manifest.get("digest") != digest:
        raise BundleProblem(f"{path} was changed after it was written: its digest is another", "digest")
    if wrong := [name for name, form in _FORM.items() if not isinstance(manifest.get(name), form)]:
        raise BundleProblem(f"{path} has no {', '.join(wrong)}: another version wrote it. Train the detector again")
    return manifest


def _declared(manifest: dict[str, Any]) -> Layout:
    try:
        return {name: (tuple(map(int, shape)), str(kind)) for name, (shape, kind) in manifest["arrays"].items()}
    except (TypeError, ValueError) as problem:
        raise BundleProblem(f"{MANIFEST} does not say of what shape and type its arrays are: {problem}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _digest(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _bytes(path: Path, limit: int) -> bytes:
    """A regular file's content, its size checked before it is read."""
    if path.is_symlink() or not path.is_file():
        raise BundleProblem(f"{path} is missing or is not a regular file", "missing")
    if (size := path.stat().st_size) > limit:
        raise BundleProblem(f"{path} has {size} bytes where {limit} are allowed", "size")
    return path.read_bytes()


def _packed(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    return data


def _unpacked(folder: Path, name: str, manifest: dict[str, Any]) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    declared = manifest["files"].get(name)
    if not isinstance(declared, dict) or type(declared.get("bytes")) is not int:
        raise BundleProblem(f"{folder / MANIFEST} does not say how long {name} is")
    data = _bytes(folder / name, min(FILE_BYTES_MAX, declared["bytes"]))
    if hashlib.sha256(data).hexdigest() != declared.get("sha256"):
        raise BundleProblem(f"{folder / name} is not the file that the manifest names: its digest is another", "digest")
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
        raise BundleProblem(f"{folder / name} is not a safetensors file: {problem}") from None


def _scenes(columns: Arrays) -> Scenes:
    """Checked: what the columns index must exist, or scoring would read outside of them."""
    names = [f.name for f in dataclasses.fields(Scenes)]
    if sorted(columns) != sorted(names):
        raise BundleProblem(f"{GOLDEN} holds {sorted(columns)} where {sorted(names)} were expected")
    for column, array in columns.items():
        if array.ndim != 1 or str(array.dtype) != _GOLDEN_DTYPES.get(column, "int64"):
            raise BundleProblem(f"{GOLDEN} holds {column} as {array.dtype}{list(array.shape)}")
    scenes = Scenes(**columns)
    rows, windows = len(scenes.t_us), len(scenes.entity)
    lengths = {len(columns[n]) == (rows if n in ("sensor", "t_us", "value") else windows) for n in names}
    inside = (scenes.first >= 0).all() and (scenes.last <= rows).all() and (scenes.first < scenes.last).all()
    if lengths != {True} or not inside:
        raise BundleProblem(f"{GOLDEN} holds windows of samples that it does not hold")
    return scenes
