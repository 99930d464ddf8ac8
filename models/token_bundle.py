"""The token detector as a bundle: which arrays it has, and how it is put together from them.

In: a verified `Bundle`. Out: a `TokenDetector`; and the way back. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from models.bundle import Arrays, Bundle, Layout
from models.calibration import Calibration
from models.detector import WindowSpec
from models.lstm import NetSettings, TokenLstm, TokenNets
from models.ngrams import Ngrams
from models.placement import placement, shapes
from models.stretches import FIRST
from models.token_view import View
from models.tokens import PARTS, TokenDetector, TokenScale

TOTAL = "total"


def settings_of(detector: TokenDetector) -> dict[str, Any]:
    """What is not an array, and the arrays' sizes. The vocabulary is a list of tokens in the order of their ids."""
    scale, known = detector.scale, detector.known
    calibrations = zip((*PARTS, TOTAL), (*scale.parts, scale.total), strict=True)
    return {
        "vocabulary": list(detector.vocabulary),
        "windows": [detector.windows.length_tokens, detector.windows.stride_tokens],
        "nets": len(detector.nets.nets),
        "net": asdict(detector.nets.nets[0].settings),
        "ngrams": [detector.memory.order, len(detector.memory.grams), len(detector.memory.contexts)],
        "calibration": {name: {"points": len(c.points), "beta": c.beta} for name, c in calibrations},
        "width": detector.view.directions.shape[1],
        "placement": [len(known.points), len(known.node_parent), known.min_samples],
        "cluster_names": {str(cluster): name for cluster, name in detector.cluster_names.items()},
        "risk": detector.risk,
    }


def arrays_of(detector: TokenDetector) -> Arrays:
    """What a bundle stores beside the settings."""
    scale, memory = detector.scale, detector.memory
    arrays: Arrays = {"share": detector.nets.ln_share, "ordinary": scale.ordinary}
    for i, net in enumerate(detector.nets.nets):
        arrays |= {f"net{i}/{name}": value.numpy() for name, value in net.state_dict().items()}
    arrays |= {f"ngrams/{name}": getattr(memory, name) for name in ("grams", "ln_p", "contexts", "ln_backoff")}
    for name, calibration in zip((*PARTS, TOTAL), (*scale.parts, scale.total), strict=True):
        arrays |= {f"calibration/{name}/points": calibration.points, f"calibration/{name}/nats": calibration.nats}
    arrays |= {"view/mean": detector.view.mean, "view/directions": detector.view.directions}
    return arrays | {f"placement/{name}": value for name, value in detector.known.arrays().items()}


def layout(settings: dict[str, Any]) -> Layout:
    """Name, shape and dtype of every array. Raises KeyError, TypeError or ValueError on settings that are none."""
    net, n_ids = NetSettings(**settings["net"]), len(settings["vocabulary"]) + FIRST
    _, n_grams, n_contexts = settings["ngrams"]
    shape: dict[str, tuple[tuple[int, ...], str]] = {
        "share": ((n_ids,), "float32"),
        "ordinary": ((len(PARTS),), "float64"),
    }
    for i in range(settings["nets"]):
        shape |= {f"net{i}/{name}": (dims, "float32") for name, dims in _net_shapes(net).items()}
    shape |= {f"ngrams/{name}": ((n_grams,), kind) for name, kind in (("grams", "uint64"), ("ln_p", "float32"))}
    shape |= {
        f"ngrams/{name}": ((n_contexts,), kind) for name, kind in (("contexts", "uint64"), ("ln_backoff", "float32"))
    }
    for name in (*PARTS, TOTAL):
        n = (settings["calibration"][name]["points"],)
        shape |= {f"calibration/{name}/points": (n, "float64"), f"calibration/{name}/nats": (n, "float64")}
    hidden, width = settings["nets"] * net.hidden, settings["width"]
    shape |= {"view/mean": ((hidden,), "float32"), "view/directions": ((hidden, width), "float32")}
    if "sample" in settings:  # of what it was trained on, for whoever goes on from it
        sessions, tokens = (int(settings["sample"][name]) for name in ("sessions", "tokens"))
        shape |= {"sample/tokens": ((tokens,), "int32"), "sample/first": ((sessions + 1,), "int64")}
        shape |= {f"sample/{name}": ((sessions,), "int64") for name in ("position", "ends")}
    points, nodes, _ = settings["placement"]
    return shape | {f"placement/{name}": form for name, form in shapes(points, width, nodes).items()}


def open_bundle(bundle: Bundle) -> TokenDetector:
    """The detector. Names, shapes, types and finiteness were checked; raises ValueError where the rest does not fit."""
    settings, arrays = bundle.settings, bundle.arrays
    words, (length, stride) = settings["vocabulary"], settings["windows"]
    vocabulary = {str(word): FIRST + i for i, word in enumerate(words)}
    if len(vocabulary) != len(words) or not 0 < stride <= length:
        raise ValueError(f"{len(words)} tokens, {len(vocabulary)} of them distinct; windows of {length} every {stride}")
    order = int(settings["ngrams"][0])
    memory = Ngrams(
        order, len(words) + FIRST - 1, *_under(arrays, "ngrams", ("grams", "ln_p", "contexts", "ln_backoff"))
    )
    names = tuple(shapes(0, 0, 0))
    found = dict(zip(names, _under(arrays, "placement", names), strict=True))
    return TokenDetector(
        vocabulary=vocabulary,
        windows=WindowSpec(length_tokens=int(length), stride_tokens=int(stride)),
        nets=TokenNets(tuple(_net(settings, arrays, i) for i in range(settings["nets"])), arrays["share"]),
        memory=memory,
        scale=TokenScale(
            arrays["ordinary"],
            tuple(_calibration(settings, arrays, name) for name in PARTS),
            _calibration(settings, arrays, TOTAL),
        ),
        view=View(arrays["view/mean"], arrays["view/directions"]),
        known=placement(found, int(settings["placement"][2])),
        tail=bundle.tail,
        risk=float(settings["risk"]),
        digest=bundle.digest,
        cluster_names={int(cluster): str(name) for cluster, name in settings["cluster_names"].items()},
    )


def _net_shapes(net: NetSettings) -> dict[str, tuple[int, ...]]:
    gates = 4 * net.hidden  # torch keeps the weights of the four gates in one array
    return {
        "embedding.weight": (net.n_classes, net.embedding),
        "lstm.weight_ih_l0": (gates, net.embedding),
        "lstm.weight_hh_l0": (gates, net.hidden),
        "lstm.bias_ih_l0": (gates,),
        "lstm.bias_hh_l0": (gates,),
        "head.weight": (net.n_classes, net.hidden),
        "head.bias": (net.n_classes,),
    }


def _net(settings: dict[str, Any], arrays: Arrays, i: int) -> TokenLstm:
    net = TokenLstm(NetSettings(**settings["net"]))
    net.load_state_dict({name: torch.from_numpy(arrays[f"net{i}/{name}"].copy()) for name in net.state_dict()})
    return net.eval().requires_grad_(False)


def _calibration(settings: dict[str, Any], arrays: Arrays, name: str) -> Calibration:
    beta = float(settings["calibration"][name]["beta"])
    if not 0 < beta < np.inf:
        raise ValueError(f"the tail of {name} has the mean excess {beta}")
    return Calibration(arrays[f"calibration/{name}/points"], arrays[f"calibration/{name}/nats"], beta)


def _under(arrays: Arrays, prefix: str, names: tuple[str, ...]) -> list[Any]:
    return [arrays[f"{prefix}/{name}"] for name in names]
