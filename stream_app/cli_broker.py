"""How a command reaches Kafka: from the configuration, an option, the environment, or the local broker.

In: options. Out: `Connection`. Remembers: nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream_app.config import Config, load, parse


@dataclass(frozen=True)
class Connection:
    """Where the brokers are, and the configuration that says how to talk to them."""

    brokers: str
    config: Config | None = None
    security: dict[str, Any] = field(default_factory=dict)  # keyword arguments of aiokafka


def connection(config_file: Path | None, brokers: str | None) -> Connection:
    """The option wins over the file, the file over TAILRACE_BROKERS; with none of them it is localhost:9092."""
    from stream_app.security import client_options

    if config_file:
        config = load(config_file)
        return Connection(brokers or config.brokers, config, client_options(config.security))
    found = brokers or os.environ.get("TAILRACE_BROKERS") or str(parse({"sources": [{"topic": "-"}]}).brokers)
    return Connection(found)
