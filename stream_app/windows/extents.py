"""How long windows are, and how often they begin: as the settings say, or the bundle, or neither.

In: settings and a detector. Out: `WindowSpec`, and what is to be said where the two differ. Remembers: nothing.
"""

from __future__ import annotations

import re

from models.detector import Detector, WindowSpec
from stream_app.config import Config, Windows
from stream_app.durations import duration_text
from stream_app.errors import ConfigurationError

DEFAULT = WindowSpec(length_us=60_000_000, stride_us=10_000_000)  # where neither settings nor bundle say anything


def configured(config: Config, detector: Detector | None) -> WindowSpec:
    """How the stream is cut; what the settings leave open is the detector's. Raises ConfigurationError."""
    return extents(config.windows.length, config.windows.stride, detector.windows if detector else DEFAULT)


def misfit(config: Config, detector: Detector) -> str | None:
    """What is to be said where the settings cut other windows than the bundle was fitted to: its scores and its risk
    are of its own. Raises ConfigurationError as `extents`."""
    asked, fitted = configured(config, detector), detector.windows
    if asked == fitted:
        return None
    return (
        f"windows of {_told(asked)} are asked for, and the bundle was fitted to windows of {_told(fitted)}: neither"
        " its scores nor its alarm rate are what they were there. Leave out windows.length and windows.stride"
    )


def unheeded(asked: Windows | None, chosen: WindowSpec) -> str | None:
    """What is to be said where training is asked for other windows than it chooses: a worker would cut what is asked
    for, to which nothing was fitted."""
    own: dict[str, int | str] = {"length": chosen.length_us, "stride": chosen.stride_us}
    if chosen.counted:
        own = {"length": f"{chosen.length_tokens} tokens", "stride": f"{chosen.stride_tokens} tokens"}
    wanted = {name: extent for name in own if (extent := getattr(asked, name, None)) is not None}
    if all(_same(extent, own[name]) for name, extent in wanted.items()):
        return None
    words = (f"windows.{name} {e if isinstance(e, str) else duration_text(e)}" for name, e in wanted.items())
    return (
        f"not heeded: {', '.join(words)}. Windows follow the rates of the sensors, or the bundle that is followed; here"
        f" they are of {_told(chosen)}. Leave out windows.length and windows.stride"
    )


def extents(length: int | str | None, stride: int | str | None, default: WindowSpec) -> WindowSpec:
    """Length and stride, in microseconds or as text in tokens. Raises ConfigurationError where they do not go together.
    A stride that is not given is the default's where the length is.

    >>> extents("100 tokens", None, DEFAULT)
    WindowSpec(length_us=0, stride_us=0, length_tokens=100, stride_tokens=50)
    """
    usual: int | str = f"{default.length_tokens} tokens" if default.counted else default.length_us
    length = usual if length is None else length
    if stride is None and _same(length, usual):
        stride = f"{default.stride_tokens} tokens" if default.counted else default.stride_us
    if stride is None:
        stride = f"{max(1, _tokens(length) // 2)} tokens" if isinstance(length, str) else max(1, length // 6)
    if isinstance(length, str) != isinstance(stride, str):
        raise ConfigurationError(f"windows: length {length} and stride {stride} must both be times or both be tokens")
    n_length, n_stride = (_tokens(e) if isinstance(e, str) else e for e in (length, stride))
    if not 0 < n_stride <= n_length:
        raise ConfigurationError(f"windows: stride {stride} must be above 0 and at most the length, {length}")
    if isinstance(length, str):
        return WindowSpec(length_tokens=n_length, stride_tokens=n_stride)
    return WindowSpec(length_us=n_length, stride_us=n_stride)


def _told(spec: WindowSpec) -> str:
    if spec.counted:
        return f"{spec.length_tokens} tokens every {spec.stride_tokens}"
    return f"{duration_text(spec.length_us)} every {duration_text(spec.stride_us)}"


def _same(one: int | str, other: int | str) -> bool:
    return one == other if not (isinstance(one, str) and isinstance(other, str)) else _tokens(one) == _tokens(other)


def _tokens(text: str) -> int:
    return int(re.sub(r"\D", "", text))
