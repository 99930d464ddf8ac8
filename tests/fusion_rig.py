"""What tests of the fusion network share: a small one, frames for it, and detectors that use one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from models.fusion import Fusion, FusionShape
from models.rates import Rate
from models.sensors import SensorDetector
from models.sensors_bundle import open_bundle
from models.sights import inputs
from stream_app.recipe import Recipe
from tests.sensor_worlds import World
from training.fit_sensors import SensorTraining, Trained, fit

RATES = (Rate("fast", 4, 8, (1, 3)), Rate("middle", 4, 8, (0,)), Rate("slow", 8, 6, (2,)))
SHAPE = FusionShape(4, 4, 16, 12, RATES)
OF_FUSION = ("distance", "fusion_forecast", "fusion_masked")


@lru_cache
def net() -> Fusion:
    torch.manual_seed(5)
    return Fusion(SHAPE).eval().requires_grad_(False)


def frames(n: int = 120, seed: int = 0) -> np.ndarray:
    """Frames [n, 4, CHANNELS] of four sensors."""
    rng = np.random.default_rng(seed)
    table = tuple(rng.normal(size=(n, 4)).astype(np.float32) for _ in range(3))
    return inputs((table[0], table[1], table[2]), np.ones((n, 4), bool))


@lru_cache
def trained(kind: str) -> Trained:
    parts = ("distance", "fusion_forecast") if kind == "single" else OF_FUSION
    entities, seconds = (6, 60.0) if kind == "multirate" else (1, 400.0)
    recipe = Recipe(encoder="fusion", parts=parts, steps=12, width=16, encoder_width=12)
    return fit(World(kind, entities, seconds).data(), SensorTraining(1, recipe))


def detector(kind: str) -> SensorDetector:
    return open_bundle(trained(kind).bundle)
