"""The synthetic fleet: its rates, its couplings, and that a fault is where it is said to be and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_app import fleet
from stream_app.files.reader import Reader

SMALL = fleet.Fleet(pumps=8, seconds=300.0)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def values(table: fleet.Table, entity: str, sensor: str) -> np.ndarray:
    mine = (table.entity == table.entities.index(entity)) & (table.sensor == table.sensors.index(sensor))
    return table.value[mine]


def test_one_entity_has_sensors_of_three_rates() -> None:
    table = fleet.pumps(SMALL, (), rng())
    n = {sensor: len(values(table, "pump-1", sensor)) for sensor in fleet.SENSORS}
    assert n == {"vibration": 30_000, "flow": 3_000, "pressure": 3_000, "temperature": 60}
    assert len(table.entities) == 8


def test_rows_come_in_order_of_time() -> None:
    assert (np.diff(fleet.pumps(SMALL, (), rng()).t_us) >= 0).all()


def test_the_same_seed_gives_the_same_fleet() -> None:
    one, two = (fleet.pumps(SMALL, fleet.pump_faults(SMALL), rng()) for _ in range(2))
    np.testing.assert_array_equal(one.value, two.value)


def test_vibration_follows_flow() -> None:
    table = fleet.pumps(SMALL, (), rng())
    loud = np.abs(values(table, "pump-2", "vibration")).reshape(-1, 1000).mean(1)
    flow = values(table, "pump-2", "flow").reshape(-1, 100).mean(1)
    assert np.corrcoef(loud, flow)[0, 1] > 0.9


def test_a_fault_touches_its_sensor_in_its_time_and_nothing_else() -> None:
    faults = fleet.pump_faults(SMALL)
    healthy, faulty = fleet.pumps(SMALL, (), rng()), fleet.pumps(SMALL, faults, rng())
    touched = np.zeros(len(healthy), bool)
    for fault in faults:
        mine = (healthy.entity == healthy.entities.index(fault.entity)) & (
            healthy.sensor == healthy.sensors.index(fault.sensor)
        )
        inside = mine & (healthy.t_us >= fault.start_us) & (healthy.t_us < fault.end_us)
        assert (healthy.value[inside] != faulty.value[inside]).mean() > 0.9
        touched |= inside
    np.testing.assert_array_equal(healthy.value[~touched], faulty.value[~touched])


def test_each_kind_of_fault_has_an_entity_of_its_own() -> None:
    faults = fleet.pump_faults(SMALL)
    assert {fault.kind for fault in faults} == {"stuck", "decoupled", "spike", "drift"}
    assert len({fault.entity for fault in faults}) == len(faults)


def test_a_broken_session_has_the_same_words_in_another_order() -> None:
    normal, none = fleet.controllers(["c"], 20, (), rng())
    broken, (fault,) = fleet.controllers(["c"], 20, ["c"], rng())
    assert none == ()
    assert normal.token is not None
    assert broken.token is not None
    assert sorted(normal.token) == sorted(broken.token)
    changed = broken.t_us[[a != b for a, b in zip(normal.token, broken.token, strict=True)]]
    assert len(changed) > 0
    assert fault.start_us <= changed.min()
    assert changed.max() < fault.end_us


@pytest.mark.parametrize("kind", ["sensors", "tokens"])
def test_a_fleet_is_a_file_that_can_be_read(tmp_path: Path, kind: str) -> None:
    table = fleet.controllers(["c"], 3, (), rng())[0] if kind == "tokens" else fleet.pumps(SMALL, (), rng())
    fleet.write(table, tmp_path / "fleet.parquet")
    reader = Reader(tmp_path / "fleet.parquet")
    assert reader.layout.kind == kind
    assert sum(len(rows) for rows in reader.batches()) == len(table)


def test_a_new_regime_doubles_a_variance_and_shifts_a_level_of_every_pump_for_good() -> None:
    start_us = SMALL.start_us + 150_000_000
    old, new = fleet.pumps(SMALL, (), rng()), fleet.pumps(SMALL, fleet.new_regime(SMALL, start_us), rng())
    later = old.t_us >= start_us
    np.testing.assert_array_equal(old.value[~later], new.value[~later])
    for pump in range(8):
        before, after = (
            {s: t.value[later & (t.entity == pump) & (t.sensor == i)] for i, s in enumerate(t.sensors)}
            for t in (old, new)
        )
        assert after["vibration"].var() == pytest.approx(2 * before["vibration"].var())
        assert after["flow"].mean() > 1.2 * before["flow"].mean()
        np.testing.assert_array_equal(before["pressure"], after["pressure"])
