"""The networks of a sensors' detector as settings and flat arrays, and back; for `models.sensors_bundle`.

In: `Networks`. Out: what the bundle stores of them; the reverse; and the layout that settings demand.
Remembers: nothing. torch is loaded only where there is a fusion network.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from models import forecast as tcn
from models.bundle import Arrays
from models.networks import Networks
from models.rates import ENCODERS, Rate

if TYPE_CHECKING:
    from models.fusion import FusionShape

WIDTH_MAX, BINS_MAX = 512, 64  # bounds on what a bundle may ask for
Forms = dict[str, tuple[tuple[int, ...], str]]


def pack_networks(networks: Networks) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and settings."""
    arrays: Arrays = {}
    settings: dict[str, Any] = {}
    if networks.tcn is not None:
        arrays |= {f"forecast.{name}": array for name, array in networks.tcn.weights.items()}
        arrays["forecast.rms"], settings["tcn"] = networks.tcn.rms, {"wide": networks.wide}
    if networks.fusion is not None:
        from models.fusion import weights

        arrays |= {f"fusion.{name}": array for name, array in weights(networks.fusion).items()}
        settings["fusion"] = asdict(networks.fusion.shape)
    return arrays, settings


def networks_layout(settings: dict[str, Any], sensors: int) -> Forms:
    """Shape and dtype of every array. Raises KeyError, TypeError, ValueError."""
    out: Forms = {}
    if "tcn" in settings:
        out |= {f"forecast.{name}": (shape, "float32") for name, shape in tcn.shapes(sensors).items()}
        out["forecast.rms"] = ((sensors,), "float64")
    if "fusion" in settings:
        from models.fusion import shapes

        out |= {f"fusion.{n}": (shape, "float32") for n, shape in shapes(_shape(settings["fusion"])).items()}
    return out


def unpack_networks(settings: dict[str, Any], arrays: Arrays) -> Networks:
    """The networks, of arrays that have the layout."""
    known, fused = None, None
    if "tcn" in settings:
        own = {n.removeprefix("forecast."): a for n, a in arrays.items() if n.startswith("forecast.")}
        rms = own.pop("rms")
        known = tcn.Forecast(own, rms)
    if "fusion" in settings:
        from models.fusion import network

        own = {n.removeprefix("fusion."): a for n, a in arrays.items() if n.startswith("fusion.")}
        fused = network(_shape(settings["fusion"]), own)
    return Networks(known, bool(settings.get("tcn", {}).get("wide")), fused)


def check_fusion(settings: dict[str, Any], sensors: int, memory: int) -> None:
    """Every sensor is read at one rate, and no further back than windows reach. Raises ValueError."""
    from models.attention import STEPS

    shape = _shape(settings)
    owned = sorted(sensor for rate in shape.rates for sensor in rate.sensors)
    odd = [r.name for r in shape.rates if r.name not in ENCODERS or r.spacing < 1 or not 1 <= r.bins <= BINS_MAX]
    if owned != list(range(sensors)) or shape.sensors != sensors or odd or not 1 <= shape.reach < memory:
        raise ValueError(f"the rates {settings['rates']} do not suit {sensors} sensors over {memory} frames")
    low, high = sorted((shape.width, shape.encoder_width))
    if not 1 <= low <= high <= WIDTH_MAX or shape.width % 2 or shape.spacing < 1:
        raise ValueError(f"widths of {shape.width} and {shape.encoder_width} do not suit the fusion network")
    if not set(shape.attention) <= set(STEPS):
        raise ValueError(f"attention {shape.attention!r:.80} where there is {', '.join(STEPS)}")


def _shape(settings: dict[str, Any]) -> FusionShape:
    from models.attention import STEPS
    from models.fusion import FusionShape

    attention = tuple(settings.get("attention", STEPS))  # bundles from before it could be left out do not name it
    found = [Rate(str(r["name"]), int(r["spacing"]), int(r["bins"]), tuple(r["sensors"])) for r in settings["rates"]]
    return FusionShape(**settings | {"rates": tuple(found), "attention": attention})
