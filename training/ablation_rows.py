"""The rows of the ablation: the recipe with one thing changed.

In: whether there is one sensor. Out: recipes by name. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from models.parts import SEVERAL, SINGLE
from stream_app.recipe import Losses, PartName, Recipe, Step

DISTANCES = {"distance", "distance_short", "shape"}
LINEAR = {"residual", "reconstruction"}
NETWORK = {"forecast"}


def _parts(single: bool, without: set[str]) -> tuple[PartName, ...]:
    return tuple(name for name in (SINGLE if single else SEVERAL) if name not in without)  # type: ignore[misc]


def _fused(single: bool) -> tuple[PartName, ...]:
    return ("fusion_forecast",) if single else ("fusion_forecast", "fusion_masked")


def _alone(loss: str) -> Callable[[bool], Recipe]:
    """The fusion network alone, trained without one of its losses."""
    return lambda single: Recipe(encoder="fusion", parts=_fused(single), losses=Losses(**{loss: 0.0}))


def _attending(*steps: Step) -> Callable[[bool], Recipe]:
    """The fusion network alone, with attention at these steps only."""
    return lambda single: Recipe(encoder="fusion", parts=_fused(single), attention=steps)


ROWS: dict[str, Callable[[bool], Recipe]] = {
    "default": lambda single: Recipe(),
    "without the forecasting network": lambda single: Recipe(encoder="none", parts=_parts(single, NETWORK)),
    "without distances": lambda single: Recipe(parts=_parts(single, DISTANCES)),
    "without the linear parts": lambda single: Recipe(parts=_parts(single, LINEAR)),
    "without smoothing": lambda single: Recipe(smoothing=False),
    "online references": lambda single: Recipe(references="online"),
    "encoder: none": lambda single: Recipe(encoder="none"),
    "encoder: fusion": lambda single: Recipe(encoder="fusion"),
    "with the fusion network's parts": lambda single: Recipe(parts=(*_parts(single, set()), *_fused(single))),
    "fusion's parts for the forecasting network": lambda single: Recipe(
        encoder="fusion", parts=(*_fused(single), *_parts(single, NETWORK))
    ),
    "the fusion network alone": lambda single: Recipe(encoder="fusion", parts=_fused(single)),
    "the same with attention within sensors only": _attending("within"),
    "the same with attention across sensors only": _attending("across"),
    "the same with means for all attention": _attending(),
    **{f"the same without the loss {name}": _alone(name) for name in Losses.model_fields},
}
