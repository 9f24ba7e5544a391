"""Connections to Ray: refused, taken, started beside other work. No fixture of this file keeps Ray up: a connection
that is there would be used."""

from __future__ import annotations

import errno
import socket
import threading

import pytest
import ray

from rayul.errors import InputError, RayulError
from rayul.sweep.connection import OWN_RAY, connected, connecting, starting


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"no Ray cluster at {address}") as caught, connected(address, print):
        pass
    assert "ray start --head" in caught.value.hint
    assert caught.value.exit_code == 2


def test_who_waits_reads_whether_a_cluster_is_asked_or_ray_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [connecting(None), connecting("local")] == ["starting Ray"] * 2
    assert connecting("auto") == "connecting to Ray"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.4:6379")
    assert connecting(None) == "connecting to Ray"


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no Ray cluster at nonsense"), connected("nonsense", print):
        pass


def test_a_ray_client_address_is_refused_also_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(InputError, match="records would not be here") as caught, connected(None, print):
        pass
    assert "ray job submit" in caught.value.hint


def test_a_ray_that_starts_beside_other_work_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with starting(None):
        with connected(None, print) as is_cluster:
            first = ray.get_runtime_context().gcs_address
            assert not is_cluster
            assert ray.get(ray.remote(lambda: 5).remote()) == 5
        with connected(None, print):
            assert ray.get_runtime_context().gcs_address != first, "it was told to end when its block did"
    assert not ray.is_initialized()


def test_a_ray_that_nobody_waits_for_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="no such rows"), starting(None):
        raise InputError("no such rows", "name others")
    assert not ray.is_initialized()
    assert not [thread for thread in threading.enumerate() if thread.name == OWN_RAY]


def test_a_ray_that_cannot_start_is_told_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ray, "init", full)
    with (
        pytest.raises(RayulError, match=r"Ray cannot start on this machine.*No space left") as caught,
        starting(None),
        connected(None, print),
    ):
        pass
    assert "RAY_TMPDIR" in caught.value.hint
