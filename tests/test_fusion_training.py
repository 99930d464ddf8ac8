"""How the fusion network is trained: its losses, its views, one seed one network, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fusion import weights
from models.sensors_bundle import open_bundle
from models.sights import inputs
from stream_app.config import parse
from stream_app.errors import ConfigurationError
from stream_app.recipe import Losses, Recipe
from tests import naive_networks as naive
from tests.fusion_rig import SHAPE, frames
from tests.sensor_worlds import World, scenes, score
from training import augment
from training.contrast import TEMPERATURE, info_nce, nt_xent
from training.descent import BAD_STEPS_MAX, Descent
from training.fit_forecast import Run
from training.fit_fusion import fit_fusion
from training.fit_sensors import SensorTraining, fit


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
