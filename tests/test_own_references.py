"""References that an entity keeps of itself: whatever the calls, those of a loop over its frames."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import BundleProblem, open_detector, write
from models.own_references import OwnPace, distances
from models.parts import NEIGHBOURS, DistancePart, Views
from models.patches import PatchShape, patches
from models.reconstruct import Table
from models.sensors import SensorDetector
from models.sensors_bundle import open_bundle
from stream_app.recipe import Recipe
from tests.sensor_worlds import World, part, scenes, score
from training.fit_sensors import SensorTraining, Trained, fit

SHAPE = PatchShape(3, 2)


def views(x: np.ndarray, present: np.ndarray) -> Views:
    return Views(x, x, x, Table(x, x, x), present, present)


def slow(known: DistancePart, seen: Views, at: np.ndarray, pace: OwnPace) -> list[float]:
    """One entity's frames `at`, one after the other, with everything kept."""
    left: list[np.ndarray] = []
    out = []
    for k, frame in enumerate(at):
        x = patches(seen.squashed, np.array([frame]), SHAPE)[0].astype(float)
        if (k + 1) % pace.every == 0:
            left.append(x)
        usable = [p for j, p in enumerate(left) if j * pace.every + pace.every - 1 <= k - pace.lag][-pace.kept :]
        there = np.repeat(seen.present[frame], SHAPE.bins)
        every = [*known.points.astype(float), *(usable if len(usable) >= NEIGHBOURS else [])]
        wider = np.sqrt(2 / seen.present[frame].sum())
        gaps = sorted(wider * np.linalg.norm((x - p)[there]) for p in every)
        out.append(float(np.mean(gaps[:NEIGHBOURS])))
    return out


@given(
    seed=st.integers(0, 2**32 - 1),
    pace=st.builds(OwnPace, lag=st.integers(1, 40), every=st.integers(1, 6), kept=st.integers(3, 9)),
    cuts=st.lists(st.integers(0, 150), max_size=4),
    gone=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_distances_equal_a_loop_however_frames_come_in_calls(
    seed: int, pace: OwnPace, cuts: list[int], gone: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(160, 2)), 0).astype(np.float32)
    present = np.ones(x.shape, bool)
    present[90:110, 0] = not gone
    known = DistancePart(rng.normal(size=(5, SHAPE.width)).astype(np.float32), SHAPE, "squashed")
    at = np.arange(2, 160)
    ring, got, before = np.zeros((1, pace.slots, SHAPE.width), np.float32), [], 0
    for a, b in pairwise(sorted({0, len(at), *cuts})):
        some = at[a : min(b, len(at))]
        first = np.array([0, len(some)])
        got.append(distances(known, views(x, present), some, (ring, first, np.array([before])), pace))
        before += len(some)
    np.testing.assert_allclose(np.concatenate(got), slow(known, views(x, present), at, pace), rtol=1e-4, atol=1e-4)


@lru_cache
def trained(kind: str) -> Trained:
    recipe = Recipe(references="online", encoder="none", parts=("distance",))
    return fit(World(kind, 1, 300.0).data(), SensorTraining(1, recipe))


def detector(kind: str) -> SensorDetector:
    return open_bundle(trained(kind).bundle)


@pytest.mark.parametrize("kind", ["single", "aligned"])
def test_what_lasts_becomes_normal_with_own_references_and_not_without(kind: str) -> None:
    known, given_ = detector(kind), World(kind, 2, 1500.0, seed=5, fault_s=500.0).data()
    frozen = fit(World(kind, 1, 300.0).data(), SensorTraining(1, Recipe(encoder="none", parts=("distance",))))
    late = {}
    for name, made in (("online", known), ("frozen", open_bundle(frozen.bundle))):
        frames = score(made, scenes(made, given_)).frames
        late[name] = float(np.median(frames.score[frames.entity == 1][-600:-400]))
    assert late["online"] < 0.8 * late["frozen"]


def test_scores_do_not_depend_on_how_windows_come_in_calls() -> None:
    known = detector("single")
    given_ = scenes(known, World("single", 1, 700.0, seed=7).data())
    whole, carry, pieces = score(known, given_), known.carry_initial.copy(), []
    for a, b in pairwise([0, 130, 131, 420, len(given_)]):
        pieces.append(known.score(part(given_, slice(a, b)), carry))
        carry = pieces[-1].carry
    np.testing.assert_allclose(np.concatenate([p.score for p in pieces]), whole.score, rtol=2e-4, atol=2e-5)


def test_the_state_is_a_record_and_a_bundle_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    assert 10_000 < detector("aligned").carry_initial.itemsize < 900_000
    bundle = trained("aligned").bundle
    write(tmp_path, bundle)
    open_detector(tmp_path)
    for wrong in ({"lag": 100, "every": 1, "kept": 10**9}, {"lag": 0, "every": 1, "kept": 3}, {"lag": 5}):
        fitted = bundle.settings["fitted"] | {"own": wrong}
        write(tmp_path, type(bundle)(**vars(bundle) | {"settings": bundle.settings | {"fitted": fitted}}))
        with pytest.raises(BundleProblem):
            open_detector(tmp_path)
