"""Clusters: known behaviours found by any of five methods, frozen as arrays, and which of them a point belongs to.

In: embeddings. Out: cluster and membership probability, as the method itself would say. Remembers: nothing.

    hdbscan                        approximate assignment (models.placement); -1 is noise
    gmm, bayesian_gmm              the component with the largest responsibility, and that responsibility
    kmeans, minibatch_kmeans       the nearest centre, and 1 - its distance / that of the next: 0 between the two

On disk: `clusters.json` and the arrays in `clusters-DIGEST.safetensors`, which it names, in one folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.placement import ARRAYS, Placement, assign, placement
from models.scenes import F32, F64, I32

METHODS = ("hdbscan", "bayesian_gmm", "gmm", "kmeans", "minibatch_kmeans")
SETTINGS = "clusters.json"
DATA = re.compile(r"clusters(-[0-9a-f]{16})?\.safetensors")  # the first ones were all named alike
SCHEMA_VERSION = 1
ROWS = 4096  # points compared with all centres at one time


class ClustersProblem(ValueError):
    """A folder that holds no clusters, or others than it says. What to do: fit them again."""


@dataclass(frozen=True)
class Preparation:
    """What is done to embeddings before they are compared: unit length if `unit`, then the main directions."""

    unit: bool
    mean: F64  # [d]
    directions: F64  # [d, k]


@dataclass(frozen=True)
class Centres:
    """Of k-means. [clusters, k]"""

    centres: F64


@dataclass(frozen=True)
class Mixture:
    """Of Gaussians: ln p of component c at x is offset[c] - |(x - means[c]) @ roots[c]|^2 / 2, up to what all share."""

    offset: F64  # [clusters]
    means: F64  # [clusters, k]
    roots: F64  # [clusters, k, k] Cholesky factors of the precisions


@dataclass(frozen=True)
class Clusters:
    """Frozen clusters. `names`: what a cluster means, by its number."""

    method: str
    preparation: Preparation
    model: Placement | Centres | Mixture
    names: dict[int, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # seed and the method's own

    def __len__(self) -> int:
        model = self.model
        if isinstance(model, Placement):
            return int(model.node_label.max(initial=-1)) + 1
        return len(model.centres if isinstance(model, Centres) else model.means)


def prepare(how: Preparation, points: F32 | F64) -> F64:
    """Embeddings [n, d] as they are compared. [n, k]"""
    x = np.asarray(points, np.float64)
    if how.unit:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    turned: F64 = (x - how.mean) @ how.directions
    return turned


def place(clusters: Clusters, points: F32 | F64) -> tuple[I32, F32]:
    """Cluster [n], -1 for noise, and membership probability [n] of embeddings [n, d], which must be finite."""
    x, model = prepare(clusters.preparation, points), clusters.model
    if isinstance(model, Placement):
        return assign(model, x)
    by_rows = _nearest if isinstance(model, Centres) else _likeliest
    label, membership = np.empty(len(x), np.int32), np.empty(len(x), np.float32)
    for at in range(0, len(x), ROWS):
        rows = slice(at, at + ROWS)
        label[rows], membership[rows] = by_rows(model, x[rows])
    return label, membership


def _nearest(model: Any, x: F64) -> tuple[NDArray[np.intp], F64]:
    distance = np.linalg.norm(x[:, None] - model.centres, axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    ordered = np.take_along_axis(distance, order[:, :2], 1)
    if ordered.shape[1] < 2:
        return order[:, 0], np.ones(len(x))
    return order[:, 0], 1 - ordered[:, 0] / np.maximum(ordered[:, 1], 1e-300)


def _likeliest(model: Any, x: F64) -> tuple[NDArray[np.intp], F64]:
    ln_p = np.stack(
        [
            o - 0.5 * np.square((x - m) @ r).sum(1)
            for o, m, r in zip(model.offset, model.means, model.roots, strict=True)
        ],
        axis=1,
    )
    ln_p -= ln_p.max(1, keepdims=True)
    responsibility = np.exp(ln_p) / np.exp(ln_p).sum(1, keepdims=True)
    return responsibility.argmax(1), responsibility.max(1)


def write_clusters(folder: Path, clusters: Clusters) -> None:
    """Writes both files into a folder, which is made. A kill on the way leaves what was there before: the settings, put
    in their place at once, name the arrays that they go with."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    model, how = clusters.model, clusters.preparation
    own = model.arrays() if isinstance(model, Placement) else vars(model)
    arrays = {"mean": how.mean, "directions": how.directions} | {f"model/{name}": array for name, array in own.items()}
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    file = f"clusters-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    settings = {
        "schema_version": SCHEMA_VERSION,
        "data": file,
        "method": clusters.method,
        "unit": how.unit,
        "min_samples": model.min_samples if isinstance(model, Placement) else None,
        "names": {str(cluster): name for cluster, name in clusters.names.items()},
        "settings": clusters.settings,
    }
    _put(folder / file, data)
    _put(folder / SETTINGS, (json.dumps(settings, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
    for old in folder.iterdir():
        if DATA.fullmatch(old.name) and old.name != file:
            old.unlink()


def _put(path: Path, data: bytes) -> None:
    """Written beside and renamed: all of it is there, or nothing."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(data)
    draft.replace(path)


def read_clusters(folder: Path) -> Clusters:
    """What `write_clusters` wrote. Executes nothing. Raises ClustersProblem that names what is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        settings = json.loads((folder / SETTINGS).read_text())
        file = str(settings.get("data", "clusters.safetensors"))
        known = settings["schema_version"] == SCHEMA_VERSION and settings["method"] in METHODS
        if not (known and DATA.fullmatch(file)):
            raise ClustersProblem(f"{folder / SETTINGS} holds no clusters of schema version {SCHEMA_VERSION}")
        arrays = load_file(folder / file)
        preparation = Preparation(bool(settings["unit"]), arrays["mean"], arrays["directions"])
        own = {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}
        if settings["method"] == "hdbscan":
            model: Placement | Centres | Mixture = placement({n: own[n] for n in ARRAYS}, int(settings["min_samples"]))
        else:
            model = Centres(**own) if settings["method"].endswith("kmeans") else Mixture(**own)
        names = {int(cluster): str(name) for cluster, name in settings["names"].items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as problem:
        raise ClustersProblem(f"{folder} holds no clusters that can be read: {problem!r}") from problem
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ClustersProblem(f"{folder / file} holds values that are not finite")
    return Clusters(settings["method"], preparation, model, names, dict(settings["settings"]))
