"""What packs of several sizes reach here is measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayul.unlearn.pack.known_rates import known_packs

MEMORY = 8 * 2**30


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path))
    return lambda: sorted((tmp_path / "packs").glob("*.json"))


def test_a_second_sweep_decides_by_the_measurement_of_the_first(
    kept: Callable[[], list[Path]], make_spec: Callable[..., Any], sets: Any
) -> None:
    spec = make_spec(method="gd")
    first = known_packs(spec, sets, [1, 2], MEMORY)
    assert [one.slots for one in first] == [1, 2]
    assert all(one.rows > 0 and one.memory > 0 for one in first)
    (path,) = kept()
    assert known_packs(spec, sets, [1, 2], MEMORY) == first
    path.write_text(json.dumps([[1, 100.0, 5], [2, 300.0, 7]]))
    assert [one.rows for one in known_packs(spec, sets, [1, 2], MEMORY)] == [100.0, 300.0], "nothing is measured again"
    assert known_packs(make_spec(method="gd", search={"trials": 3}), sets, [1, 2], MEMORY)[1].rows == 300.0


def test_one_trial_at_a_time_is_measured_as_the_sweep_would_run_it(
    kept: Callable[[], list[Path]], make_spec: Callable[..., Any], sets: Any
) -> None:
    """In a process of its own, or in a pack of one: each has a measurement."""
    alone = known_packs(make_spec(), sets, [1], MEMORY)
    packed = known_packs(make_spec(), sets, [1], MEMORY, one_packed=True)
    assert [one.slots for one in (*alone, *packed)] == [1, 1]
    assert len(kept()) == 2
    assert known_packs(make_spec(), sets, [1], MEMORY, one_packed=True) == packed


def test_another_shape_is_another_measurement(
    kept: Callable[[], list[Path]], make_spec: Callable[..., Any], sets: Any
) -> None:
    for spec in (make_spec(), make_spec(training={"batch_size": 2}), make_spec(lora={"r": 4})):
        known_packs(spec, sets, [1], MEMORY)
    known_packs(make_spec(), sets | {"forget": sets["forget"][:3]}, [1], MEMORY)
    known_packs(make_spec(), sets, [1, 2], MEMORY)
    assert len(kept()) == 5


@pytest.mark.parametrize("text", ["", "{", "[[1, 0, 5]]", "[[1, 2]]", '["a"]', "[[1, null, 3]]"])
def test_what_cannot_be_read_is_measured_again(
    text: str, kept: Callable[[], list[Path]], make_spec: Callable[..., Any], sets: Any
) -> None:
    first = known_packs(make_spec(), sets, [1], MEMORY)
    (path,) = kept()
    path.write_text(text)
    again = known_packs(make_spec(), sets, [1], MEMORY)
    assert [one.slots for one in again] == [one.slots for one in first]
    assert json.loads(path.read_text()) == [list(one) for one in again]


def test_nothing_that_fits_is_not_remembered(
    kept: Callable[[], list[Path]], make_spec: Callable[..., Any], sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("rayul.unlearn.pack.throughput._measured", out_of_memory)
        assert known_packs(make_spec(), sets, [2], MEMORY) == []
    assert kept() == []
    assert known_packs(make_spec(), sets, [2], MEMORY) != []
