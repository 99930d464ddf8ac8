"""Judging: what happens to windows once they are closed, stage by stage: score, threshold, drift, alerts.

In: `Scenes` that no state has seen yet. Out: `Result`. Remembers: what its stages remember, in their rows of `Keys`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from models.detector import Detector, Frames, Scored
from models.scenes import I32, Bool, Scenes, join_scenes, select
from stream_app import scoring
from stream_app.alerts import episodes as alerts
from stream_app.alerts import others
from stream_app.alerts.alert import Speaker
from stream_app.alerts.silence import Silences
from stream_app.config import Config
from stream_app.drift import entities as drift
from stream_app.drift.fleet import FleetDrift
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys, Row
from stream_app.quiet import Quiet
from stream_app.samples import DeadLetter, Samples
from stream_app.scoring import Refused, Scoring
from stream_app.states import Layout, Section
from stream_app.threshold import stage as threshold
from stream_app.threshold.stage import Judged
from stream_app.windows import timed as windows

ABSORBED_STAGE = "pipeline"
ABSORBED = np.zeros(1, [("absorbed", np.int64)])  # windows below this ordinal have been seen
OWN_STAGES = (scoring.STAGE, threshold.STAGE, drift.STAGE)  # what a bundle has learned of an entity
RefusedWindow = tuple[Refused, str, int, int]  # with entity, first and last offset of the window
PERIODS_US = {"day": 86_400_000_000, "week": 604_800_000_000}


@dataclass(frozen=True)
class PipelineSpec:
    """What one partition needs to run. `store` holds the packed states of its keys and is kept up to date; `model` is
    what `--model` takes for this bundle."""

    config: Config
    detector: Detector | None = None  # None: everything but scoring
    topic: str = "file"
    partition: int = 0
    store: MutableMapping[bytes, bytes] = field(default_factory=dict)
    model: str | None = None  # None: the configuration's
    shadow: PipelineSpec | None = None  # of a bundle that judges the same windows and says nothing that counts
    quiet: Quiet = field(default_factory=Quiet)
    watches_drift: bool = True  # False: nobody asks for drift events, and no score depends on them

    @property
    def bundle(self) -> str:
        """Digest; empty where there is no detector."""
        return self.detector.digest if self.detector else ""


@dataclass(frozen=True)
class ScoredWindows:
    """Windows with everything said of them; row i of each column belongs together."""

    scenes: Scenes
    scored: Scored
    judged: threshold.Judged
    entities: tuple[str, ...]  # [w] names
    speaker: Speaker


@dataclass(frozen=True)
class Rated:
    """Windows that have a score and no verdict yet."""

    scenes: Scenes
    scored: Scored
    entities: tuple[str, ...]
    refused: tuple[RefusedWindow, ...]


@dataclass(frozen=True)
class Result:
    """What a batch gave. `windows` is None where nothing was scored."""

    dead_letters: tuple[DeadLetter, ...] = ()
    windows: ScoredWindows | None = None
    refused: tuple[RefusedWindow, ...] = ()
    alerts: tuple[alerts.Alert, ...] = ()
    drift: tuple[drift.DriftEvent, ...] = ()

    @property
    def frames(self) -> Frames | None:
        return self.windows.scored.frames if self.windows else None


class Judging:
    """The stages behind the windows: score, threshold, drift, alerts."""

    def __init__(self, spec: PipelineSpec, keys: Keys) -> None:
        assert spec.detector is not None
        risk = risk_of(spec.config, spec.detector)
        self.scoring = Scoring(spec.detector, keys)
        self.threshold = threshold.Threshold(risk, keys, spec.detector.tail, overlap_of(spec.detector))
        self._drift = _watches(spec, keys) if spec.watches_drift else None
        origin = alerts.Origin.of(spec)
        self.alerts = alerts.Episodes(origin, keys)
        self.others = others.OtherReasons(origin, spec.detector, keys, spec.config.alarms.also)
        idle_us = spec.config.windows.idle_us(spec.detector.windows.length_us)
        self._silences = Silences(origin, keys, idle_us) if "silence" in spec.config.alarms.also else None
        self._quiet, self._keys, self._speaker = spec.quiet, keys, Speaker.of(spec.config.detector, spec.detector)

    def update(self, scenes: Scenes) -> Result:
        return self.judge(self.rate(scenes))

    def rate(self, scenes: Scenes) -> Rated:
        """The stage that asks the detector. It may work on windows while those before them are judged."""
        return self.rated(scenes, self.scoring.update(scenes))

    def rated(self, scenes: Scenes, told: scoring.Told) -> Rated:
        """As `rate`, where the detector has been asked."""
        scored, rows, refused = told
        fine = select(scenes, rows)
        return Rated(fine, scored, tuple(map(self._keys.name, fine.entity.tolist())), self._describe(refused, scenes))

    def judge(self, rated: Rated) -> Result:
        """The stages behind it."""
        fine, scored = rated.scenes, rated.scored
        feeds = self._quiet.feeds(fine, rated.entities)
        judged = self.threshold.update(fine.entity, scored.score, feeds)
        noticed = self._drifts(fine, scored, judged, feeds)
        messages = self.alerts.update(fine, scored, judged)
        messages += self.others.update(fine, scored, judged, [i for i, _ in noticed if i is not None])
        said = ScoredWindows(fine, scored, judged, rated.entities, self._speaker)
        drifts = tuple(event for _, event in noticed)
        return Result((), said, rated.refused, tuple(messages), drifts)

    def hear(self, samples: Samples, clock_us: int) -> tuple[tuple[alerts.Alert, ...], I32]:
        """What there is to say of who came and who did not, and the slots that have just fallen silent. Like `rate` it
        may be called while windows before are judged."""
        if self._silences is None:
            return (), np.empty(0, np.int32)
        said, fell_silent = self._silences.update(samples, clock_us)
        return tuple(said), fell_silent

    def end(self, slots: I32) -> tuple[alerts.Alert, ...]:
        """Nothing more is awaited of these entities for now: what is open of them closes."""
        return tuple(self.alerts.end(slots) + self.others.end(slots))

    def _drifts(self, scenes: Scenes, scored: Scored, judged: Judged, feeds: Bool) -> list[drift.Noticed]:
        if self._drift is None:
            return []
        of_entities, of_fleet = self._drift
        heard = scored if feeds.all() else replace(scored, score=np.where(feeds, scored.score, np.nan))
        of_all = of_fleet.update(heard, int(scenes.end_us.max(initial=0)))
        return of_entities.update(scenes, heard, judged) + [(None, event) for event in of_all]

    def _describe(self, refused: list[Refused], scenes: Scenes) -> tuple[RefusedWindow, ...]:
        name, first, last = self._keys.name, scenes.first_offset, scenes.last_offset
        return tuple(
            (r, name(int(scenes.entity[i])), int(first[i]), int(last[i])) for r in refused if (i := r.window) >= 0
        )


def _watches(spec: PipelineSpec, keys: Keys) -> tuple[drift.Drift, FleetDrift]:
    assert spec.detector is not None
    name = spec.config.detector
    return drift.Drift(name, spec.detector, keys), FleetDrift(name, spec.detector.digest)


def joined(letters: tuple[DeadLetter, ...], said: list[Result], closing: tuple[alerts.Alert, ...]) -> Result:
    """The rounds of one batch as one result; nearly always there is one."""
    return Result(
        letters,
        _end_to_end([r.windows for r in said if r.windows is not None]),
        tuple(x for r in said for x in r.refused),
        tuple(x for r in said for x in r.alerts) + closing,
        tuple(x for r in said for x in r.drift),
    )


def _end_to_end(parts: list[ScoredWindows]) -> ScoredWindows | None:
    if len(parts) <= 1:
        return parts[0] if parts else None
    judged = {f.name: np.concatenate([getattr(p.judged, f.name) for p in parts]) for f in fields(Judged)}
    entities = tuple(name for p in parts for name in p.entities)
    return ScoredWindows(
        join_scenes([p.scenes for p in parts]),
        scoring.join([p.scored for p in parts]),
        Judged(**judged),
        entities,
        parts[0].speaker,
    )


def overlap_of(detector: Detector) -> int:
    """How many neighbouring windows share samples that are scored in each of them; frames of time are scored once."""
    spec = detector.windows
    return -(-spec.length_tokens // spec.stride_tokens) if spec.counted else 1


def risk_of(config: Config, detector: Detector) -> float:
    """The risk per window: as configured, or from the false alarms allowed per entity, or the bundle's default.

    One window per stride: a budget of N per week is q = N / (strides per week). Tokens have no clock: a budget in time
    can't be turned into a risk per window, so it is refused.
    """
    alarms = config.alarms
    if alarms.risk is not None:
        return alarms.risk
    if alarms.at_most is None:
        return detector.risk
    if detector.windows.counted:
        raise ConfigurationError("alarms.at_most needs windows of time; for tokens give alarms: {risk: 1e-3}")
    period_us = PERIODS_US[alarms.per]
    return min(0.1, alarms.at_most * detector.windows.stride_us / period_us)


@dataclass(frozen=True)
class AlarmRate:
    """False episodes that an entity may have in a `per`: a day, a week, or where windows are counted one window."""

    episodes: float
    per: str
    windows: float  # of an entity in a `per`


def rate_of(config: Config, detector: Detector) -> AlarmRate:
    """The promise in the unit of the settings. Raises ConfigurationError as `risk_of`."""
    counted, per = detector.windows.counted, config.alarms.per
    windows = 1.0 if counted else PERIODS_US[per] / detector.windows.stride_us
    return AlarmRate(risk_of(config, detector) * windows, "window" if counted else per, windows)


def layout_of(spec: PipelineSpec) -> Layout:
    """What the packed state of an entity is made of: what belongs to the bundle apart from what outlives it."""
    if spec.detector is None:
        return Layout(windows.STAGE, (ABSORBED_STAGE,))
    also = tuple(Section((stage,)) for stage in others.layouts(spec.config.alarms.also))
    sections = Section((alerts.STAGE,)), Section(OWN_STAGES, spec.bundle), also
    return Layout(windows.STAGE, (ABSORBED_STAGE,), *sections)


def layouts(spec: PipelineSpec) -> dict[str, Row]:
    """The initial row of every stage that remembers something per entity."""
    ingest = {windows.STAGE: windows.INGEST, ABSORBED_STAGE: ABSORBED}
    if spec.detector is None:
        return ingest
    return ingest | {
        scoring.STAGE: spec.detector.carry_initial,
        threshold.STAGE: threshold.initial(spec.detector.tail, risk_of(spec.config, spec.detector)),
        drift.STAGE: drift.INITIAL,
        alerts.STAGE: alerts.INITIAL,
        **others.layouts(spec.config.alarms.also),
    }
