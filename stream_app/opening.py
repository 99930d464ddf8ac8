"""Opening a bundle by its path, for commands and workers: what is wrong with it becomes an error that a user can read.

In: a path. Out: a `Detector`, or facts about it. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.bundle import BundleProblem, open_detector, read
from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import BundleRefused, ConfigurationError


def open_bundle(path: Path, digest: str | None = None) -> Detector:
    """The detector, verified. Raises ConfigurationError where there is no bundle, BundleRefused for a bad one."""
    _must_exist(path)
    try:
        return open_detector(path, digest)
    except BundleProblem as problem:
        raise BundleRefused(str(problem), problem.reason) from problem


def configured_detector(config: Config) -> Detector | None:
    """The detector that `model` names, by its path or as `pump@live` of the models topic; None where it names none:
    then records are counted and windowed, not scored. Raises what `open_bundle` raises, and BrokerUnreachable."""
    if config.model is None:
        return None
    from stream_app.model_store.fetching import resolve  # aiokafka, which files need not
    from stream_app.model_store.places import reference

    wanted = reference(config.model)
    if wanted is None:
        return open_bundle(Path(config.model))
    pointer, path = resolve(config, wanted)
    return open_bundle(path, pointer.digest)


def facts(path: Path) -> dict[str, Any]:
    """What a bundle says of itself, its arrays verified but not opened as a detector."""
    _must_exist(path)
    try:
        bundle = read(path)
    except BundleProblem as problem:
        raise BundleRefused(str(problem), problem.reason) from problem
    return {
        "path": str(path),
        "digest": bundle.digest,
        "kind": bundle.kind,
        "arrays": len(bundle.arrays),
        "bytes": sum(array.nbytes for array in bundle.arrays.values()),
        "settings": bundle.settings,
        "lineage": bundle.lineage,
    }


def verified(path: Path) -> dict[str, Any]:
    """Opens it and reproduces its golden scores."""
    detector = open_bundle(path)
    return {"bundle": str(path), "digest": detector.digest, "kind": detector.kind, "verified": True}


def _must_exist(path: Path) -> None:
    if not path.is_dir():
        raise ConfigurationError(f"there is no bundle at {path}; tailrace train writes one")
