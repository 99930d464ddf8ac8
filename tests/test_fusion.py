"""The fusion network: what it may see, what it is trained by, and the detector that uses it."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
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
from models.fusion import Fusion, FusionShape, run, shapes, weights
from models.rates import BINS, Rate, rates
from models.sensors import SensorDetector
from models.sensors_bundle import open_bundle
from models.sights import inputs, targets
from stream_app.config import parse
from stream_app.errors import ConfigurationError
from stream_app.recipe import Losses, Recipe
from tests import naive_networks as naive
from tests.sensor_worlds import World, part, scenes, score
from training import augment
from training.contrast import TEMPERATURE, info_nce, nt_xent
from training.descent import BAD_STEPS_MAX, Descent
from training.fit_forecast import Run
from training.fit_fusion import fit_fusion
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


@given(seed=st.integers(0, 2**32 - 1), b=st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_contrastive_losses_equal_their_loops(seed: int, b: int) -> None:
    one, two = np.random.default_rng(seed).normal(size=(2, 3, b, 5))
    loss, info = nt_xent(torch.tensor(one), torch.tensor(two)), info_nce(torch.tensor(one), torch.tensor(two))
    pairs = list(zip(one, two, strict=True))
    assert float(loss) == pytest.approx(np.mean([naive.nt_xent(x, y, TEMPERATURE) for x, y in pairs]))
    assert float(info) == pytest.approx(np.mean([naive.info_nce(x, y, TEMPERATURE) for x, y in pairs]))


def test_two_views_of_the_same_are_found_more_easily_than_two_of_different_things() -> None:
    x, y = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    assert nt_xent(x, x + 0.01 * y) < 0.5 < nt_xent(x, y)
    assert info_nce(x, x + 0.01 * y) < 0.5 < info_nce(x, y)


CHANGES = (augment.jitter, augment.scale, augment.mask, augment.cutout, augment.time_warp, augment.view)


@pytest.mark.parametrize("change", CHANGES)
@given(seed=st.integers(0, 2**32 - 1), t=st.integers(1, 70))
@settings(max_examples=10, deadline=None)
def test_a_view_has_the_form_of_what_it_shows_and_the_input_is_not_changed(change: object, seed: int, t: int) -> None:
    assert callable(change)
    rng = np.random.default_rng(seed)
    x = np.stack([frames(t, seed % 1000), frames(t, 1)])
    x[0, :, 2] = 0  # absent
    before = x.copy()
    out = change(x, rng)
    np.testing.assert_array_equal(x, before)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert np.isfinite(out).all()
    assert set(np.unique(out[..., 3])) <= {0.0, 1.0}
    assert not out[out[..., 3] == 0].any()  # what is absent is zero
    assert not out[0, :, 2].any()


def test_a_warped_stretch_ends_where_it_ended_and_keeps_its_range() -> None:
    x = frames(60)[None]
    out = augment.time_warp(x, np.random.default_rng(0))
    np.testing.assert_allclose(out[:, -1], x[:, -1], atol=1e-4)
    assert out.max() <= x.max() + 1e-5
    assert np.abs(out - x).max() > 0.1


def worlds_runs(n: int = 300) -> list[np.ndarray]:
    t = np.arange(n)[:, None]
    mean = np.sin(t / 7 + np.arange(4)).astype(np.float32)
    return [inputs((mean, 0 * mean, 0 * mean), np.ones(mean.shape, bool))]


def test_every_loss_falls_and_one_seed_gives_one_network() -> None:
    first, second = (fit_fusion(worlds_runs(), SHAPE, (Losses(), None), Run(24, 3)) for _ in range(2))
    short = fit_fusion(worlds_runs(), SHAPE, (Losses(), None), Run(8, 3))
    for name, value in weights(first.net).items():
        np.testing.assert_array_equal(value, weights(second.net)[name], err_msg=name)
    assert set(first.last) == {"forecast", "masked", "bins", "contrast", "cpc"}
    assert first.last["forecast"] + first.last["masked"] < short.last["forecast"] + short.last["masked"]
    assert first.skipped == 0


@pytest.mark.parametrize("name", list(Losses.model_fields))
def test_a_network_can_be_trained_by_each_loss_alone(name: str) -> None:
    only = Losses(**{other: float(other == name) for other in Losses.model_fields})
    made = fit_fusion(worlds_runs(), SHAPE, (only, None), Run(8, 0))
    assert set(made.last) == {name}
    assert all(np.isfinite(value).all() for value in weights(made.net).values())


def test_steps_whose_loss_is_not_finite_are_skipped_and_too_many_end_the_run() -> None:
    runs = worlds_runs()
    runs[0][:, 0, 0] = np.nan
    with pytest.raises(ValueError, match=f"not finite in {BAD_STEPS_MAX + 1} of"):
        fit_fusion(runs, SHAPE, (Losses(), None), Run(40, 0))
    descent = Descent({"w": torch.zeros(2)})
    assert not any(descent.is_finite(float("nan"), step) for step in range(BAD_STEPS_MAX))
    assert descent.is_finite(1.0, BAD_STEPS_MAX)
    assert descent.skipped == BAD_STEPS_MAX


def test_a_network_goes_on_from_another_with_its_encoders_as_they_were() -> None:
    first = fit_fusion(worlds_runs(), SHAPE, (Losses(), None), Run(12, 3)).net
    again = fit_fusion(worlds_runs(), SHAPE, (Losses(), first), Run(4, 3)).net
    same = {name: np.array_equal(value, weights(first)[name]) for name, value in weights(again).items()}
    assert all(kept for name, kept in same.items() if name.startswith("encoders."))
    assert not any(kept for name, kept in same.items() if name.startswith("across."))


def test_a_run_that_is_too_short_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=f"more than {SHAPE.reach} frames"):
        fit_fusion([frames(20)], SHAPE, (Losses(), None), Run(5, 0))


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


@pytest.mark.parametrize("encoder", ["none", "tcn"])
def test_only_the_networks_that_are_needed_are_trained(encoder: str) -> None:
    recipe = Recipe(encoder=encoder, parts=("distance", "residual"), steps=5)  # type: ignore[arg-type]
    made = fit(World("aligned", 1, 200.0).data(), SensorTraining(0, recipe))
    assert set(made.bundle.settings["fitted"]["networks"]) == {encoder} - {"none"}
    known = open_bundle(made.bundle)
    given_ = scenes(known, World("aligned", 1, 60.0, seed=4).data())
    assert np.isfinite(score(known, given_).score).all()
    assert score(known, given_).explain(20)[0].expected is None


def test_a_part_that_the_data_cannot_have_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="reconstruction is for several sensors"):
        fit(World("single", 1, 200.0).data(), SensorTraining(0, Recipe(parts=("reconstruction",))))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"encoder": "lstm"}, "training.encoder"),
        ({"parts": []}, "at least one"),
        ({"parts": ["shape", "shape"]}, "each once"),
        ({"width": 7}, "training.width"),
        ({"encoder": "fusion", "losses": {"forecast": 0, "masked": 0, "bins": 0}}, "must weigh something"),
        ({"losses": {"triplet": 1}}, "training.losses.triplet"),
        ({"attention": ["within", "within"]}, "once, or none"),
        ({"attention": ["between"]}, "training.attention"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_its_place(training: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse({"sources": [{"topic": "t"}], "training": training})
