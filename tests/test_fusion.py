"""The fusion network: what it may see, and the detector that uses it."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import Mean
from models.bins import Grid
from models.bundle import BundleProblem, open_detector, write
from models.fusion import Fusion, run, shapes, weights
from models.rates import BINS, rates
from models.sensors import SensorDetector
from models.sights import targets
from stream_app.recipe import Recipe
from tests import naive_networks as naive
from tests.fusion_rig import OF_FUSION, SHAPE, detector, frames, net, trained
from tests.sensor_worlds import World, part, scenes, score
from training.fit_sensors import SensorTraining, fit


def test_a_sensors_reconstruction_does_not_see_the_sensor() -> None:
    x = frames()
    changed = x.copy()
    changed[:, 1, :3] += 5
    before, after = run(net(), x), run(net(), changed)
    np.testing.assert_array_equal(before.masked[:, 1], after.masked[:, 1])
    assert (np.abs(before.masked[60:, 0] - after.masked[60:, 0]) > 1e-6).any()


def test_what_is_said_of_a_frame_uses_nothing_later() -> None:
    x = frames()
    changed = x.copy()
    changed[80:] = 9
    before, after = run(net(), x), run(net(), changed)
    np.testing.assert_allclose(before.forecast[:81], after.forecast[:81], atol=1e-5)  # frame 80 is forecast from 79
    np.testing.assert_allclose(before.masked[:80], after.masked[:80], atol=1e-5)
    np.testing.assert_allclose(before.code[:80], after.code[:80], atol=1e-5)


def test_a_sensor_that_is_absent_is_seen_by_nobody() -> None:
    x = frames()
    x[:, 3] = 0
    wild = x.copy()
    wild[:, 3, :3] = 7
    np.testing.assert_array_equal(run(net(), x).masked[:, :3], run(net(), wild).masked[:, :3])
    np.testing.assert_array_equal(run(net(), x).code, run(net(), wild).code)
    assert np.isfinite(run(net(), np.zeros_like(x)).masked).all()


def test_frames_read_in_many_passes_are_those_read_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(net(), frames())
    monkeypatch.setattr("models.fusion.SCORES_MAX", 7 * SHAPE.sensors * SHAPE.tokens)
    pieces = run(net(), frames())
    for name in ("forecast", "masked", "code"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), atol=1e-5, err_msg=name)


WITHOUT: list[tuple[str, ...]] = [("within",), ("across",), ()]


@pytest.mark.parametrize("attention", WITHOUT)
def test_without_attention_the_network_sees_what_it_may_and_no_more(attention: tuple[str, ...]) -> None:
    torch.manual_seed(5)
    plain = Fusion(dataclasses.replace(SHAPE, attention=attention)).eval().requires_grad_(False)
    x = frames()
    x[:, 3] = 0  # absent
    own, absent, later = x.copy(), x.copy(), x.copy()
    own[:, 1, :3] += 5
    absent[:, 3, :3] = 7
    later[80:] = 9
    said, of_own, of_absent, of_later = (run(plain, given_) for given_ in (x, own, absent, later))
    np.testing.assert_array_equal(of_own.masked[:, 1], said.masked[:, 1])
    assert (np.abs(of_own.masked[60:, 0] - said.masked[60:, 0]) > 1e-6).any()
    np.testing.assert_array_equal(of_absent.masked[:, :3], said.masked[:, :3])
    np.testing.assert_allclose(of_later.code[:80], said.code[:80], atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), q=st.integers(1, 4), length=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_a_mean_equals_its_loops(seed: int, n: int, q: int, length: int) -> None:
    torch.manual_seed(seed % 1000)
    look = Mean(6).requires_grad_(False)
    queries, tokens, seen = torch.randn(n, q, 6), torch.randn(n, length, 6), torch.rand(n, q, length) < 0.5
    for i in range(n):
        for j in range(q):
            found = [look.value(look.norm_t(t)) for t in (look.nothing, *tokens[i, seen[i, j]])]
            h = queries[i, j] + look.out(sum(found) / len(found))
            want = h + look.mlp(look.norm_o(h))
            np.testing.assert_allclose(look(queries, tokens, seen)[i, j], want, atol=1e-5)


def test_shapes_are_those_of_the_network_and_frames_before_its_context_are_zero() -> None:
    assert shapes(SHAPE) == {name: value.shape for name, value in weights(net()).items()}
    out = run(net(), frames())
    assert not out.masked[: SHAPE.reach - 1].any()
    assert not out.forecast[: SHAPE.reach].any()
    assert out.masked[SHAPE.reach - 1].any()
    assert out.forecast[SHAPE.reach].any()


def test_sensors_are_read_by_their_rate_and_type() -> None:
    grid = Grid(200_000, 5, 0, 1, 67, 20, True)
    interval = np.array([100_000.0, 200_000, 500_000, 5_000_000, np.nan, 100_000])
    stepwise = np.array([False, False, False, False, False, True])
    found = {rate.name: rate.sensors for rate in rates(interval, stepwise, grid)}
    assert found == {"fast": (0, 1), "middle": (2, 5), "slow": (3, 4)}
    assert all(rate.reach < grid.memory for rate in rates(interval, stepwise, grid))


@given(seed=st.integers(0, 2**32 - 1), spacing=st.integers(1, 6), extra=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_targets_equal_means_of_slices(seed: int, spacing: int, extra: int) -> None:
    mean = np.random.default_rng(seed).normal(size=(BINS * spacing + extra, 3)).astype(np.float32)
    got = targets(mean, spacing)
    for frame in range(BINS * spacing - 1, len(mean)):
        np.testing.assert_allclose(got[frame], naive.targets(mean, spacing, frame), atol=1e-5)


@pytest.mark.parametrize("kind", ["single", "multirate"])
@given(cuts=st.lists(st.integers(1, 400), max_size=4))
@settings(max_examples=3, deadline=None)
def test_scores_with_the_network_do_not_depend_on_how_windows_come_in_calls(kind: str, cuts: list[int]) -> None:
    known = detector(kind)
    given_ = scenes(known, World(kind, 1, 60.0, seed=7, lost=0.3).data())
    whole = score(known, given_)
    edges = sorted({0, *(c for c in cuts if c < len(given_)), len(given_)})
    carry, pieces = known.carry_initial.copy(), []
    for a, b in pairwise(edges):
        pieces.append(known.score(part(given_, slice(a, b)), carry))
        carry = pieces[-1].carry
    np.testing.assert_allclose(np.concatenate([p.score for p in pieces]), whole.score, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(np.concatenate([p.embedding for p in pieces]), whole.embedding, rtol=1e-3, atol=1e-3)


def test_a_bundle_with_the_network_opens_and_says_which_sensor_and_which_bin(tmp_path: Path) -> None:
    write(tmp_path, trained("multirate").bundle)
    known = open_detector(tmp_path)
    assert known.part_names == OF_FUSION
    given_ = scenes(detector("multirate"), World("multirate", 1, 100.0, seed=9, fault_s=80.0).data())
    out = known.score(given_, known.carry_initial)
    window = int(np.argmax(np.where(given_.end_us < given_.t_us.min() + 95_000_000, out.score, -1)))
    told = out.explain(window)
    assert told[0].sensor == "s0"
    assert sum(p.contribution for p in told) == pytest.approx(1)
    assert told[0].bins
    assert told[0].expected is not None


def test_a_bundle_keeps_where_its_network_attends_and_one_from_before_attends_everywhere(tmp_path: Path) -> None:
    recipe = Recipe(encoder="fusion", parts=OF_FUSION, steps=3, width=16, encoder_width=12, attention=("within",))
    made = fit(World("aligned", 1, 200.0).data(), SensorTraining(1, recipe)).bundle
    write(tmp_path / "new", made)
    opened = open_detector(tmp_path / "new")  # reproduces its golden scores
    assert isinstance(opened, SensorDetector)
    assert opened.fitted.networks.fusion is not None
    assert opened.fitted.networks.fusion.shape.attention == ("within",)
    bundle = trained("multirate").bundle
    networks = json.loads(json.dumps(bundle.settings["fitted"]["networks"]))
    del networks["fusion"]["attention"]
    before = bundle.settings | {"fitted": bundle.settings["fitted"] | {"networks": networks}}
    write(tmp_path / "old", dataclasses.replace(bundle, settings=before))
    assert open_detector(tmp_path / "old").part_names == OF_FUSION


@pytest.mark.parametrize(
    "change",
    [
        {"width": 10**6},
        {"sensors": 3},
        {"rates": [{"name": "fast", "spacing": 4, "bins": 8, "sensors": [0, 1, 2]}]},
        {"rates": [{"name": "fast", "spacing": 10**6, "bins": 8, "sensors": [0, 1, 2, 3]}]},
        {"rates": [{"name": "unheard", "spacing": 4, "bins": 8, "sensors": [0, 1, 2, 3]}]},
        {"attention": ["within"]},
        {"attention": ["within", "between"]},
        {"attention": 2},
    ],
)
def test_a_network_that_does_not_suit_its_bundle_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    bundle = trained("multirate").bundle
    fitted = bundle.settings["fitted"]
    fusion = {"fusion": fitted["networks"]["fusion"] | change}
    changed = bundle.settings | {"fitted": fitted | {"networks": fusion}}
    write(tmp_path, dataclasses.replace(bundle, settings=changed))
    with pytest.raises(BundleProblem):
        open_detector(tmp_path)
