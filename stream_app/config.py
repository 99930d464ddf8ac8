"""The configuration of a detector: one YAML file, every value checked, every default with a reason.

In: a file and the environment (TAILRACE_BROKERS, TAILRACE_SECURITY__SASL__PASSWORD, ... and *_FILE for secrets).
Out: `Config`, frozen. Remembers: nothing. An unknown key is an error, since a misspelt setting is a silent default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from stream_app.durations import Duration, Extent, defaults_as_text
from stream_app.errors import ConfigurationError
from stream_app.recipe import Recipe

IDLE_US = 300_000_000


def _listed(value: Any) -> Any:
    """A list; in the environment its parts are separated by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=defaults_as_text)


class Source(Section):
    topic: str
    default_entity: str | None = None  # for records without a key; without it they are dead letters
    dead_letters: str | None = None  # default <topic>-dlt

    @property
    def dead_letter_topic(self) -> str:
        return self.dead_letters or f"{self.topic}-dlt"


class Windows(Section):
    """length and stride come from the bundle where they are not given."""

    length: Extent | None = None
    stride: Extent | None = None
    lateness: Duration = 5_000_000
    idle: Duration | None = None  # a silence that closes an entity's windows; default: see idle_us
    max_ahead: Duration = 3_600_000_000  # one hour: generous to clocks, but a clock in the wrong unit is far outside
    max_behind: Duration = 20 * 365 * 86_400_000_000  # refuses seconds taken for milliseconds, and zero

    def idle_us(self, length_us: int) -> int:
        """The silence that closes an entity's windows: where it is not given five minutes, or the windows' length if
        that is more, since between two samples of a slow sensor nothing ends."""
        return self.idle if self.idle is not None else max(IDLE_US, length_us)


class Alarms(Section):
    """How many false alarms are allowed: per entity and period, or as a risk per window."""

    at_most: float | None = Field(default=None, gt=0)
    per: Literal["day", "week"] = "week"
    risk: float | None = Field(default=None, gt=0, lt=0.5)
    # Alerts for more than scores beyond the tail; they come on top of what is promised.
    also: Annotated[tuple[Literal["noise", "drift", "silence", "stuck"], ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Alarms:
        if self.at_most is not None and self.risk is not None:
            raise ValueError("give at_most (with per) or risk, not both")
        return self


class Topics(Section):
    alerts: str = "alerts"
    scores: str | None = "scores"  # null: scores are not published
    drift: str = "drift"
    models: str = "models"
    control: str = "control"
    feedback: str = "feedback"


class Limits(Section):
    """Every buffer's bound. What a bound refuses is counted."""

    record_bytes: int = Field(default=1_000_000, gt=0)
    samples_per_record: int = Field(default=100_000, gt=0)
    sensors: int = Field(default=1_000, ge=0)
    tokens: int = Field(default=100_000, ge=0)  # distinct
    entities: int = Field(default=250_000, gt=0)  # in memory, per partition; beyond, the least recently seen are closed
    pending_samples: int = Field(default=20_000_000, gt=0)  # in open windows, per partition


class Sasl(Section):
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str
    password: SecretStr


class Tls(Section):
    ca: Path | None = None  # PEM; the system's where not given
    certificate: Path | None = None
    key: Path | None = None
    check_hostname: bool = True


class Security(Section):
    sasl: Sasl | None = None
    tls: Tls | None = None
    allow_insecure: bool = False  # SASL without TLS sends passwords in clear

    @model_validator(mode="after")
    def _no_clear_passwords(self) -> Security:
        if self.sasl and not self.tls and not self.allow_insecure:
            raise ValueError("sasl without tls sends the password in clear; add tls: {} or allow_insecure: true")
        return self


class Worker(Section):
    instance_id: str | None = None  # static membership: a restart within the session time-out moves no partition
    session_timeout: Duration = Field(default=10_000_000, gt=0)
    checkpoint: Duration = Field(default=3_000_000, gt=0)
    # Without progress while there is lag: the watchdog ends the process.
    stuck_after: Duration = Field(default=120_000_000, gt=0)
    grace: Duration = 25_000_000  # for draining after SIGTERM
    max_poll_records: int = Field(default=20_000, gt=0)
    http_host: str = "127.0.0.1"
    http_port: int | None = Field(default=8370, ge=0, le=65_535)  # null: no server; 0: any


class Registry(Section):
    """Where versions of models are kept, and whose word on them counts."""

    trusted_keys: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()  # Ed25519: PEM files, or 32 bytes in base64
    allow_unsigned: bool = False
    signing_key: Path | None = None  # PEM; for whoever publishes
    store: str | None = None  # fsspec URL; null: bundles travel over Kafka
    cache: Path | None = None  # of bundles that were fetched; default ~/.cache/tailrace/models
    max_bytes: int = Field(default=256 << 20, gt=0)  # of one bundle; those of tests and demo take 1 to 20 MB
    keep: int = Field(default=3, ge=1)  # retired versions whose bundles stay: of the rest `models prune` frees the room


class Gates(Section):
    """What a candidate must show on held-out data before it may go live; null leaves a check out."""

    held_out: float = Field(default=0.2, gt=0, lt=0.9)  # share of the range: its end, what is newest
    windows: int | None = 200  # held out; of fewer nobody can say how often they alarm
    alarm_ratio: float | None = 2.0  # false episodes seen over promised: what the tail keeps on eighteen streams
    time_in_alarm: float | None = 0.1  # one that never closes is one episode too; a short one may take 5 % of a trial
    agreement: float | None = 0.9  # of the windows that the live bundle calls normal; the same episode costs as much
    episodes_lost: int | None = 0  # labelled ones that the live bundle finds
    golden: float | None = 1e-5  # relative; what a worker asks when it opens the bundle
    clusters: int | None = 1  # known behaviours; with none, everything is noise
    noise: float | None = 0.9  # share of the windows that belong to none
    placement: float | None = 0.95  # share that lands where the fit put it
    latency: Duration | None = 50_000  # per window and batch of one entity: a worker with 20 such windows/s is busy


class Shadow(Section):
    """How a version in shadow is run beside the live one."""

    share: float = Field(default=1.0, gt=0, le=1)  # of entities
    budget: float = Field(default=0.25, gt=0, le=1)  # of one core, while the live one is idle; else 0.08 at most


class Guard(Section):
    """When a version that was promoted is rolled back: where it alarms more often than its contract allows."""

    watch: Duration = 3_600_000_000  # after the promotion
    factor: float = Field(default=3.0, ge=1)  # episodes per promised one that are not held against it
    level: float = Field(default=1e-4, gt=0, lt=0.5)  # chance to roll back a version that keeps to the factor
    refused: float = Field(default=0.05, gt=0, le=1)  # share of windows without a score, of at least 100


class Config(Section):
    """Everything about one detector. `sources` alone has no default."""

    detector: str = "tailrace"
    group: str | None = None
    brokers: str = "localhost:9092"
    security: Security = Security()
    sources: tuple[Source, ...] = Field(min_length=1)
    windows: Windows = Windows()
    alarms: Alarms = Alarms()
    model: str | None = None
    topics: Topics = Topics()
    limits: Limits = Limits()
    training: Recipe = Recipe()
    gates: Gates = Gates()
    worker: Worker = Worker()
    shadow: Shadow = Shadow()
    guard: Guard = Guard()
    registry: Registry = Registry()

    @property
    def group_id(self) -> str:
        return self.group or self.detector


def load(path: Path) -> Config:
    """The configuration in a YAML file, overridden by the environment.

    Raises ConfigurationError with one line per wrong value, naming its place in the file.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as problem:
        raise ConfigurationError(f"{path}: {problem.strerror}; write one, or see `tailrace config schema`") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ConfigurationError(f"{path} is not YAML: {problem}") from problem
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path} holds no settings; it needs at least `sources: [{{topic: NAME}}]`")
    return parse(with_environment(data), str(path))


def parse(data: dict[str, Any], where: str = "configuration") -> Config:
    """Checks plain data against the types. Raises ConfigurationError."""
    try:
        return Config.model_validate(data)
    except ValidationError as problem:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in problem.errors(include_input=False)]
        raise ConfigurationError(f"{where}: " + "; ".join(lines)) from None


def with_environment(data: dict[str, Any]) -> dict[str, Any]:
    """TAILRACE_A__B=v sets a.b; TAILRACE_A__B_FILE=path sets it to the file's content, for secrets.

    Raises ConfigurationError naming the variable whose file can't be read, or that has no place in the data.
    """
    merged = dict(data)
    for name, value in os.environ.items():
        if not name.startswith("TAILRACE_"):
            continue
        *path, leaf = name.removeprefix("TAILRACE_").lower().split("__")
        is_file, leaf = leaf.endswith("_file"), leaf.removesuffix("_file")
        if (path[0] if path else leaf) not in Config.model_fields:
            continue
        section = merged
        for part in path:
            if not isinstance(found := section.get(part) or {}, dict):
                raise ConfigurationError(f"{name} sets a value within `{part}`, which is no section of settings")
            section[part] = dict(found)
            section = section[part]
        section[leaf] = _content(name, Path(value)) if is_file else value
    return merged


def _content(name: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as problem:
        raise ConfigurationError(f"{name}: {path}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise ConfigurationError(f"{name}: {path} holds no text: {problem}") from problem
