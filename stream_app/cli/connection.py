"""How a command reaches Kafka: by the detector's configuration, or with none by an option or the environment.

In: options. Out: `Config`. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path

from stream_app.config import Config, load, parse, with_environment
from stream_app.errors import UsageError


def connection(config_file: Path | None, brokers: str | None) -> Config:
    """The configuration with the brokers that are meant: the option wins over the file and TAILRACE_BROKERS."""
    if config_file is not None:
        config = load(config_file)
        return config.model_copy(update={"brokers": brokers}) if brokers else config
    # The one setting without a default; commands that need it ask for a file.
    found = with_environment({"sources": [{"topic": "any"}]})
    return parse(found | ({"brokers": brokers} if brokers else {}))


def dead_letters(topic: str | None, config_file: Path | None, config: Config) -> str:
    """The dead-letter topic that is meant: the option, or that of the file's one source. Raises UsageError."""
    if topic is not None:
        return topic
    known = sorted({source.dead_letter_topic for source in config.sources})
    if config_file is None:
        raise UsageError("which dead letters? Give --topic, such as pump-samples-dlt, or the detector's --config")
    if len(known) > 1:
        raise UsageError(f"the sources have several dead-letter topics; choose one by --topic: {', '.join(known)}")
    return known[0]
