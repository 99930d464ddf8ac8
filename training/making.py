"""A bundle from data: the fit of its kind, and what is stored of it.

In: `Dataset`. Out: `Bundle` and a report. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from models.bundle import Bundle
from models.detector import Detector, WindowSpec
from models.sensors import SensorDetector
from stream_app.config import Alarms, Config
from stream_app.errors import ConfigurationError, UsageError
from stream_app.intervals import Interval
from stream_app.recipe import Recipe
from stream_app.windows.extents import unheeded
from training.dataset import Dataset
from training.ranks import ALONE, Ranks, local_device
from training.rehearsal import Sample
from training.token_sessions import Sessions

Say = Callable[[str], None]


@dataclass(frozen=True)
class Making:
    """How to train. `budget_s` of None: as long as it takes."""

    seed: int = 0
    budget_s: float | None = None
    device: str = "auto"
    config: Config | None = None
    without: tuple[Interval, ...] = ()  # not learned from
    like: Detector | None = None  # the detector that is followed: windows and sensors stay as they are there
    sample: Sample | Sessions | None = None  # fine-tuning: of what `like` was trained on
    trim: bool = False  # sensors: what is strange among its own is not learned from either
    ranks: Ranks = ALONE

    @property
    def alarms(self) -> Alarms:
        """How many false alarms are allowed."""
        return self.config.alarms if self.config else Alarms()


def make(data: Dataset, how: Making, lineage: dict[str, Any], say: Say) -> tuple[Bundle, dict[str, Any]]:
    """Fits the kind of detector that the data asks for. Raises ConfigurationError where they can't carry one."""
    if how.like is not None and how.like.kind != data.kind:
        raise ConfigurationError(f"the data are {data.kind}, but the detector is one of {how.like.kind}")
    try:
        bundle, report = (_tokens if data.kind == "tokens" else _sensors)(data, how, say)
    except ValueError as problem:
        raise ConfigurationError(f"nothing can be trained on these data: {problem}") from problem
    left_out = {"n_windows": report["n_windows"], "left_out": report["left_out"]}
    return replace(bundle, lineage=bundle.lineage | lineage | left_out), report


def _tokens(data: Dataset, how: Making, say: Say) -> tuple[Bundle, dict[str, Any]]:
    from models.tokens import TokenDetector
    from training.fit_tokens import TokenTraining, fit
    from training.token_rehearsal import Start

    wanted = TokenTraining(
        seed=how.seed,
        device=local_device(device_of(how.device)),
        budget_s=how.budget_s,
        risk=how.alarms.risk,
        without=how.without,
        noise="noise" in how.alarms.also,
        say=say,
    )
    windows = how.like.windows if how.like else _counted(how.config) or wanted.windows
    if words := unheeded(how.config.windows if how.config else None, windows):
        say(words)
    start = None
    if isinstance(how.like, TokenDetector) and isinstance(how.sample, Sessions):
        start = Start(how.like, how.sample)
    made = fit(data, replace(wanted, windows=windows, start=start))
    return made.bundle, made.report


def _sensors(data: Dataset, how: Making, say: Say) -> tuple[Bundle, dict[str, Any]]:
    from training.fit_sensors import SensorTraining, fit

    a_week = {"day": 7.0, "week": 1.0}[how.alarms.per] * (how.alarms.at_most or 1.0)
    like = how.like.fitted if isinstance(how.like, SensorDetector) else None
    recipe = how.config.training if how.config else Recipe()
    wanted = SensorTraining(
        how.seed, recipe, local_device(device_of(how.device)), how.ranks, how.budget_s, a_week, say=say
    )
    asked = how.config.windows if how.config else None
    wanted = replace(wanted, asked=asked, noise="noise" in how.alarms.also)
    sample = how.sample if isinstance(how.sample, Sample) else None
    made = fit(data, replace(wanted, without=how.without, like=like, trim=how.trim, sample=sample))
    return made.bundle, made.report


def _counted(config: Config | None) -> WindowSpec | None:
    """Windows of tokens, where the configuration gives them: `length: 100 tokens`."""
    if config is None or config.windows.length is None:
        return None
    length, stride = config.windows.length, config.windows.stride or config.windows.length
    if not isinstance(length, str) or not isinstance(stride, str):
        raise ConfigurationError("windows of tokens are counted: length: 64 tokens, stride: 32 tokens")
    return WindowSpec(length_tokens=int(length.split()[0]), stride_tokens=int(stride.split()[0]))


def device_of(name: str) -> str:
    """Of auto, cpu, cuda what there is. Raises UsageError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: there is no GPU that torch can use here")
    return name
