"""How a command reaches Kafka: by the detector's configuration, or with none by an option or the environment.

In: options. Out: `Config`. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path

from stream_app.config import Config, load, parse, with_environment


def connection(config_file: Path | None, brokers: str | None) -> Config:
    """The configuration with the brokers that are meant: the option wins over the file and TAILRACE_BROKERS."""
    if config_file is not None:
        config = load(config_file)
        return config.model_copy(update={"brokers": brokers}) if brokers else config
    # The one setting without a default; commands that need it ask for a file.
    found = with_environment({"sources": [{"topic": "any"}]})
    return parse(found | ({"brokers": brokers} if brokers else {}))
