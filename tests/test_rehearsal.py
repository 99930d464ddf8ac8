"""Fine-tuning: a bundle goes on from another, with a sample of what that one was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sensor_worlds import World, trained

from models.bins import NEVER, bins
from models.sensors_bundle import open_bundle
from stream_app.recipe import Recipe
from training.dataset import cut
from training.fit_forecast import FROZEN
from training.fit_sensors import SensorTraining, Trained, fit
from training.rehearsal import BYTES_MAX, rehearsed, stored

HOW = SensorTraining(seed=2, recipe=Recipe(steps=20))


def tuned(kind: str, world: World) -> Trained:
    old = trained(kind).bundle
    how = replace(HOW, like=open_bundle(old).fitted, sample=stored(old.arrays))
    return fit(world.data(), how)


def test_a_bundle_carries_a_bounded_sample_of_its_training() -> None:
    arrays = trained("multirate").bundle.arrays
    sample = stored(arrays)
    assert sample is not None
    assert len(sample.mean) == sample.run.sum() > 0
    assert sum(array.nbytes for name, array in arrays.items() if name.startswith("sample.")) <= BYTES_MAX
    assert stored({}) is None


@pytest.mark.parametrize("kind", ["aligned", "single", "multirate"])
def test_fine_tuning_keeps_windows_sensors_and_the_lower_layers(kind: str) -> None:
    old = trained(kind)
    entities = 6 if kind == "multirate" else 1
    new = tuned(kind, World(kind, entities, 300.0, seed=9))
    assert open_bundle(new.bundle).windows == open_bundle(old.bundle).windows
    before, after = (
        {n: a for n, a in t.bundle.arrays.items() if "conv" in n or n.endswith("code")} for t in (old, new)
    )
    frozen = [name for name in before if name.rpartition(".")[2].startswith(FROZEN)]
    assert frozen
    for name, array in before.items():
        assert np.array_equal(array, after[name]) == (name in frozen), name


def test_rehearsed_frames_are_what_the_detector_saw_in_the_scaling_of_the_new_one() -> None:
    old = trained("multirate").bundle
    fitted, sample = open_bundle(old).fitted, stored(old.arrays)
    assert sample is not None
    data = World("multirate", 6, 60.0).data()
    scenes = cut(data, open_bundle(old).windows)
    wider = replace(fitted.scaling, centre=fitted.scaling.centre + 1, scale=2 * fitted.scaling.scale)
    never = np.full(len(scenes), NEVER)
    table = bins(scenes, fitted.grid, never, (wider.centre, wider.scale))
    both = rehearsed(table, sample, fitted, wider)
    n = len(table.mean)
    np.testing.assert_array_equal(both.mean[:n], table.mean)
    there = sample.age >= 0
    raw = sample.mean * fitted.scaling.scale + fitted.scaling.centre
    again = both.mean[n:] * wider.scale + wider.centre
    np.testing.assert_allclose(again[there], raw[there], rtol=1e-4, atol=1e-4)
    assert (both.age[n:] == sample.age).all()
    # one more entity, whose every run has its context before what is scored
    own = both.stretches.entity == both.stretches.entity.max()
    assert own.sum() == len(sample.run)
    assert (both.scored >= n).sum() == (sample.run - (fitted.grid.memory - 1)).sum()


def test_a_sensor_that_is_new_begins_anew_beside_the_old_ones() -> None:
    data = World("aligned", 1, 300.0, seed=4).data()
    more = np.flatnonzero(data.sensor == 0)
    columns = [np.concatenate([c, c[more]]) for c in (data.entity, data.t_us, data.value)]
    sensor = np.concatenate([data.sensor, np.full(len(more), 3, np.int32)])
    order = np.lexsort((sensor, columns[1], columns[0]))
    grown = replace(
        data, sensors=(*data.sensors, "s9"), entity=columns[0][order], sensor=sensor[order], t_us=columns[1][order],
        value=columns[2][order],
    )  # fmt: skip
    old = trained("aligned").bundle
    made = fit(grown, replace(HOW, like=open_bundle(old).fitted, sample=stored(old.arrays)))
    assert open_bundle(made.bundle).sensors == (*data.sensors, "s9")
