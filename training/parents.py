"""The bundle that a refit follows: the live one, by the configuration's `model`.

In: the configuration. Out: `Parent`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.model_store.fetching import fetch, history
from stream_app.model_store.places import cache_folder, reference
from stream_app.opening import open_bundle


@dataclass(frozen=True)
class Parent:
    """`name`: under which candidates are published. A detector of None: the refit is the first of its kind."""

    name: str
    detector: Detector | None = None
    folder: Path | None = None
    version: int | None = None

    @property
    def digest(self) -> str | None:
        return self.detector.digest if self.detector else None

    def as_dict(self) -> dict[str, Any] | None:
        """For a lineage."""
        return {"digest": self.digest, "version": self.version} if self.detector else None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parent_of(config: Config) -> Parent:
    """Raises BundleRefused, ConfigurationError, BrokerUnreachable."""
    wanted = reference(config.model)
    if wanted is None and config.model is not None:
        folder = Path(config.model)
        return Parent(config.detector, open_bundle(folder), folder)
    name = wanted.detector if wanted else config.detector
    pointer = _pointer(config, name)
    if pointer is None:
        return Parent(name)
    folder = fetch(config, pointer, cache_folder(config))
    return Parent(name, open_bundle(folder, pointer.digest), folder, pointer.version)


def _pointer(config: Config, name: str) -> Any:
    """The live version; a topic that is not there yet names none."""
    try:
        return history(config).live(name)
    except ConfigurationError:
        return None
