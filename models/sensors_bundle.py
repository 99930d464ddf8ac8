"""The sensors' detector as settings and flat arrays, and back.

In: `Fitted`. Out: what `models.bundle` stores; the reverse; and the layout that settings demand. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from models import forecast as tcn
from models import reconstruct as ridge
from models.bins import Grid
from models.bundle import Arrays, Bundle, Layout
from models.embedding import Embedding
from models.fusion_parts import FusionForecastPart, FusionMaskedPart
from models.levels import Pace
from models.networks import Networks
from models.networks_bundle import check_fusion, networks_layout, pack_networks, unpack_networks
from models.own_references import OwnPace
from models.parts import (
    OF_ONE,
    OF_OTHERS,
    SEVERAL,
    SINGLE,
    DistancePart,
    ForecastPart,
    Moments,
    Part,
    ReconstructionPart,
    ResidualPart,
)
from models.patches import PatchShape
from models.placement import placement
from models.placement import shapes as placement_shapes
from models.rates import BINS
from models.scenes import I32
from models.sensors import Fitted, Scaling, SensorDetector

PER_SENSOR = ("centre", "scale", "std_centre", "std_scale", "slope_centre", "slope_scale")
VIEWS = ("squashed", "wide", "linear")
DISTANCES = ("distance", "distance_short", "shape")
OWN_BYTES_MAX = 900_000  # of an entity's references of its own: its state is one record of a changelog
OF_FUSION = ("fusion_forecast", "fusion_masked")
NAMES = {*SEVERAL, *SINGLE, *OF_FUSION}


def pack(fitted: Fitted) -> tuple[dict[str, Any], Arrays]:
    """Settings (JSON) and arrays."""
    arrays: Arrays = {"centre": fitted.scaling.centre, "scale": fitted.scaling.scale}
    arrays |= asdict(fitted.scaling.moments) | {"unit": fitted.unit}
    arrays |= {"span": fitted.pace.span, "start": fitted.pace.start, "embedding.scale": fitted.embedding.scale}
    arrays |= {
        "embedding.centre": fitted.embedding.axes.centre,
        "embedding.components": fitted.embedding.axes.components,
    }
    arrays |= {f"placement.{name}": array for name, array in fitted.known.arrays().items()}
    settings: dict[str, Any] = {
        "sensors": list(fitted.sensors),
        "grid": asdict(fitted.grid),
        "parts": list(fitted.parts),
        "pace": {"time": fitted.pace.time, "delay": fitted.pace.delay},
        "embedding": asdict(fitted.embedding.shape) | {"axes": int(fitted.embedding.axes.components.shape[1])},
        "placement": {
            "min_samples": fitted.known.min_samples,
            "points": len(fitted.known.points),
            "nodes": len(fitted.known.node_label),
        },
        "shapes": {},
        "encoder": fitted.embedding.encoder,
        "own": asdict(fitted.own) if fitted.own else None,
        "still": None if fitted.still is None else fitted.still.tolist(),
        "networks": {},
    }
    more, settings["networks"] = pack_networks(fitted.networks)
    arrays |= more
    for name, part in fitted.parts.items():
        more, shape = _pack_part(part)
        arrays |= {f"{name}.{key}": array for key, array in more.items()}
        settings["shapes"][name] = shape
    return settings, arrays


def _pack_part(part: Part) -> tuple[Arrays, dict[str, Any]]:
    if isinstance(part, ForecastPart):
        return {}, {"wide": part.wide}
    if isinstance(part, FusionForecastPart | FusionMaskedPart):
        return {"rms": part.rms}, {}
    if isinstance(part, DistancePart):
        return {"points": part.points}, asdict(part.shape) | {"view": part.view, "points": len(part.points)}
    if isinstance(part, ResidualPart):
        known = part.known
        return {"centre": known.centre, "components": known.components}, asdict(part.shape) | {
            "rank": int(known.components.shape[1])
        }
    assert isinstance(part, ReconstructionPart)
    r = part.known
    return {"inverse": r.inverse, "solution": r.solution, "rms": r.rms}, asdict(r.inputs) | {
        "lags": list(r.inputs.lags)
    }


def layout(settings: dict[str, Any]) -> Layout:
    """For `models.bundle`: name, shape and dtype of every array. Raises KeyError, TypeError, ValueError."""
    settings = settings["fitted"]
    _check_numbers(settings)
    _still(settings)
    c, parts = len(settings["sensors"]), settings["parts"]
    _check_parts(settings)
    out: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(PER_SENSOR, ((c,), "float64"))
    out |= {name: ((len(parts),), "float64") for name in ("unit", "span", "start")}
    out |= networks_layout(settings["networks"], c)
    for name in parts:
        out |= {f"{name}.{key}": value for key, value in _part_layout(name, settings["shapes"][name], c).items()}
    axes, width = int(settings["embedding"]["axes"]), _shape(settings["embedding"]).width
    out |= {"embedding.centre": ((width,), "float32"), "embedding.components": ((width, axes), "float32")}
    place = axes + 1 + (0 if settings["encoder"] == "none" else tcn.CODE)
    out |= {"embedding.scale": ((place,), "float32")}
    if "sample" in settings:
        out |= _sample_layout(settings["sample"], c)
    known = settings["placement"]
    arrays = placement_shapes(int(known["points"]), place, int(known["nodes"]))
    return out | {f"placement.{name}": value for name, value in arrays.items()}


def _sample_layout(sample: dict[str, Any], c: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Frames of the training, for a later fit; the detector itself has no use for them."""
    frames = (int(sample["frames"]), c)
    columns = {"mean": "float32", "std": "float32", "slope": "float32", "age": "int32"}
    out: dict[str, tuple[tuple[int, ...], str]] = {f"sample.{n}": (frames, kind) for n, kind in columns.items()}
    return out | {"sample.run": ((int(sample["runs"]),), "int64")}


def _part_layout(name: str, shape: dict[str, Any], c: int) -> dict[str, tuple[tuple[int, ...], str]]:
    if name == "forecast":
        return {}
    if name.startswith("fusion_"):
        return {"rms": ((c,) if name == "fusion_forecast" else (c, BINS), "float64")}
    if name == "reconstruction":
        inputs = _inputs(shape)
        n, c = inputs.count, inputs.sensors
        return {"inverse": ((n, n), "float64"), "solution": ((n, c), "float64"), "rms": ((c,), "float64")}
    width = _shape(shape).width
    if name == "residual":
        return {"centre": ((width,), "float32"), "components": ((width, int(shape["rank"])), "float32")}
    return {"points": ((int(shape["points"]), width), "float32")}


def open_bundle(bundle: Bundle) -> SensorDetector:
    """For `models.bundle`."""
    risk = float(bundle.settings["risk"])
    if not 0 < risk < 0.5:
        raise ValueError(f"a risk of {risk} is no probability of a false alarm")
    return SensorDetector(unpack(bundle.settings["fitted"], bundle.arrays), bundle.tail, risk, bundle.digest)


def unpack(settings: dict[str, Any], arrays: Arrays) -> Fitted:
    """The detector's content, of arrays that have the layout."""
    moments = Moments(*(arrays[name] for name in ("std_centre", "std_scale", "slope_centre", "slope_scale")))
    pace = Pace(arrays["span"], float(settings["pace"]["time"]), int(settings["pace"]["delay"]), arrays["start"])
    axes = ridge.Subspace(arrays["embedding.centre"], arrays["embedding.components"])
    known = {n.removeprefix("placement."): a for n, a in arrays.items() if n.startswith("placement.")}
    networks = unpack_networks(settings["networks"], arrays)
    return Fitted(
        tuple(settings["sensors"]),
        Grid(**settings["grid"]),
        Scaling(arrays["centre"], arrays["scale"], moments),
        {name: _unpack_part(name, (settings["shapes"][name], networks), arrays) for name in settings["parts"]},
        arrays["unit"],
        pace,
        Embedding(axes, _shape(settings["embedding"]), arrays["embedding.scale"], str(settings["encoder"])),
        placement(known, int(settings["placement"]["min_samples"])),
        networks,
        OwnPace(**settings["own"]) if settings["own"] else None,
        _still(settings),
    )


def _unpack_part(name: str, about: tuple[dict[str, Any], Networks], arrays: Arrays) -> Part:
    shape, networks = about
    own = {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")}
    if name == "forecast":
        assert networks.tcn is not None  # settings were checked
        return ForecastPart(networks.tcn, networks.wide)
    if name.startswith("fusion_"):
        assert networks.fusion is not None
        reach, spacing = networks.fusion.shape.reach, networks.fusion.shape.spacing
        forecast = name == "fusion_forecast"
        return FusionForecastPart(own["rms"], reach + 1) if forecast else FusionMaskedPart(own["rms"], reach, spacing)
    if name == "residual":
        return ResidualPart(ridge.Subspace(own["centre"], own["components"]), _shape(shape))
    if name == "reconstruction":
        return ReconstructionPart(ridge.Reconstruction(_inputs(shape), own["inverse"], own["solution"], own["rms"]))
    if shape["view"] not in VIEWS:
        raise ValueError(f"{shape['view']!r:.40} is not one of the views {', '.join(VIEWS)}")
    return DistancePart(own["points"], _shape(shape), shape["view"])


def _shape(shape: dict[str, Any]) -> PatchShape:
    return PatchShape(int(shape["frames"]), int(shape["sensors"]), float(shape["level"]), bool(shape["normal"]))


def _inputs(shape: dict[str, Any]) -> ridge.Inputs:
    values = (int(shape["sensors"]), int(shape["per_bin"]), bool(shape["spread"]))
    return ridge.Inputs(*values, tuple(int(lag) for lag in shape["lags"]), bool(shape["squares"]))


def _check_parts(settings: dict[str, Any]) -> None:
    """Parts that there are, that suit the sensors, and whose networks are there. Raises ValueError."""
    c, parts, networks = len(settings["sensors"]), settings["parts"], settings["networks"]
    wrong = set(parts) - NAMES | set(parts) & set(OF_OTHERS if c == 1 else OF_ONE)
    if not parts or wrong or len(set(parts)) < len(parts):
        raise ValueError(f"parts {parts} do not suit {c} sensors")
    needed = {"tcn" if name == "forecast" else "fusion" for name in parts if name in ("forecast", *OF_FUSION)}
    needed |= {settings["encoder"]} - {"none"}
    if not needed <= set(networks) <= {"tcn", "fusion"} or settings["encoder"] not in ("none", "tcn", "fusion"):
        raise ValueError(f"networks {sorted(networks)} where {sorted(needed)} are needed")
    if "fusion" in networks:
        check_fusion(networks["fusion"], c, settings["grid"]["memory"])
    if settings["own"]:
        _check_own(settings)


def _check_own(settings: dict[str, Any]) -> None:
    """A ring of patches that an entity's state can hold. Raises ValueError, TypeError."""
    pace = OwnPace(**settings["own"])
    if not all(isinstance(v, int) for v in settings["own"].values()) or min(pace.lag, pace.every, pace.kept) < 1:
        raise ValueError(f"own references {settings['own']} must hold whole numbers from one")
    widths = [_shape(settings["shapes"][name]).width for name in settings["parts"] if name in DISTANCES]
    if 4 * pace.slots * sum(widths) > OWN_BYTES_MAX:
        raise ValueError(f"own references of {4 * pace.slots * sum(widths)} bytes per entity")


def _still(settings: dict[str, Any]) -> I32 | None:
    """None in bundles from before there were limits. Raises ValueError."""
    limit = settings.get("still")
    if limit is None:
        return None
    if len(limit) != len(settings["sensors"]) or not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in limit):
        raise ValueError(f"{len(settings['sensors'])} sensors may stand still for {limit} frames")
    return np.array(limit, np.int32)


def _check_numbers(settings: dict[str, Any]) -> None:
    """Refuses settings that would make scoring read outside its arrays or never end. Raises ValueError."""
    grid = settings["grid"]
    if not all(isinstance(v, int) for v in grid.values()):
        raise ValueError(f"grid {grid} must hold whole numbers")
    low = min(grid["step_us"], grid["per_bin"], grid["stride"], grid["hold"])
    longest = max(int(s.get("frames", 1)) for s in settings["shapes"].values())
    memory = max(tcn.MEMORY + 1, longest, max(ridge.LAGS) * grid["per_bin"] + 1)
    if low < 1 or grid["shift_us"] > 0 or not memory <= grid["memory"] <= 1_000_000:
        raise ValueError(f"grid {grid} does not suit patches of {longest} frames")
    if not np.isfinite(settings["pace"]["time"]) or settings["pace"]["time"] < 1 or settings["pace"]["delay"] < 0:
        raise ValueError(f"pace {settings['pace']} must be positive")
