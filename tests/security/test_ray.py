"""Who may use the Ray that a sweep runs on: its own is its user's alone, and a cluster is used with its token."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **more}


def python(code: str, home: Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(home, **more), timeout=150, check=False, cwd=cwd
    )


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# --- on one machine --------------------------------------------------------------------------------------------------

LOCAL = """
import json, os, stat, sys
from pathlib import Path
import psutil
from rayul.sweep.connection import connected
import ray
from ray._raylet import Config, GcsClient, AuthenticationTokenLoader
from ray.exceptions import AuthenticationError

found = {}
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
with connected(None, print):
    found["cores"] = ray.cluster_resources()["CPU"]
    assert ray.get(ray.remote(lambda: 5).remote()) == 5
    paths = ray.get(ray.remote(lambda: [*map(os.path.abspath, __import__("sys").path)]).remote())
    found["imports from here"] = os.getcwd() in paths
    address = ray.get_runtime_context().gcs_address
    found["address"] = address
    found["listening"] = sorted({
        c.laddr.ip for p in psutil.Process().children(recursive=True) for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN})
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    place = Path(os.environ["RAY_TMPDIR"])
    found["inside"] = place in session.parents
    found["modes"] = {p.name: stat.S_IMODE(p.stat().st_mode) for p in place.iterdir()}
    (token,) = place.glob("*/auth_token")
    found["token"] = stat.S_IMODE(token.stat().st_mode)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    Config.initialize("")
    try:
        GcsClient(address=address)
        found["stranger"] = "let in"
    except AuthenticationError:
        found["stranger"] = "refused"
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")
found["left"] = sorted(p.name for p in place.iterdir())
found["environment"] = [n for n in os.environ if n.startswith("RAY_AUTH")]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_ray_of_our_own_is_this_users_alone_and_leaves_nothing(tmp_path: Path, short: Path) -> None:
    done = python(LOCAL, tmp_path, RAY_TMPDIR=str(short), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["address"].startswith("127.0.0.1:")
    assert found["cores"] == 1, "Ray counts those of the machine"
    assert set(found["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert found["inside"]
    assert not found["imports from here"], "it may be a folder that somebody else filled"
    assert set(found["modes"].values()) == {0o700}
    assert found["token"] == 0o600
    assert found["stranger"] == "refused"
    assert found["left"] == []
    assert found["environment"] == []
    assert not (tmp_path / ".ray").exists()


def test_a_token_that_ray_left_for_everyone_becomes_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayul.sweep.authentication import narrow

    monkeypatch.setenv("HOME", str(tmp_path))
    narrow()
    (tmp_path / ".ray").mkdir(mode=0o755)
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("abc")
    token.chmod(0o644)
    narrow()
    assert (stat.S_IMODE(token.parent.stat().st_mode), stat.S_IMODE(token.stat().st_mode)) == (0o700, 0o600)


def test_what_a_killed_driver_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayul.sweep import run_folder as module
    from rayul.sweep.run_folder import run_folder

    code = """
from rayul.sweep import run_folder as module
import time
module.LONGEST = 1000
with module.run_folder() as folder:
    print(folder, flush=True)
    time.sleep(60)
"""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr(module, "LONGEST", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(tmp_path, RAY_TMPDIR=str(place)),
        )
        for _ in range(2)
    ]
    folders = [Path(driver.stdout.readline().strip()) for driver in drivers]  # type: ignore[union-attr]
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)
    (place / "rayul-run-file").touch()
    (place / "rayul-run-link").symlink_to(tmp_path)
    os.kill(drivers[0].pid, signal.SIGKILL)
    drivers[0].wait(timeout=30)
    with run_folder() as mine:
        assert folders[0].exists(), "too young to be judged"
    monkeypatch.setattr(module, "SETTLED", -1.0)
    with run_folder() as mine:
        assert {p.name for p in place.iterdir()} == {folders[1].name, mine.name, "rayul-run-file", "rayul-run-link"}
        assert tmp_path.exists()
    drivers[1].terminate()
    drivers[1].wait(timeout=30)


# --- a cluster -------------------------------------------------------------------------------------------------------

CONNECT = """
import sys
from rayul.errors import InputError
from rayul.sweep.connection import connected
import ray
try:
    with connected(sys.argv[1], lambda line: print("WARNED", line)):
        print("NODES", sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]), flush=True)
        print("RAN", ray.get(ray.remote(lambda: 5).remote()))
except InputError as error:
    print("REFUSED", error)
"""


def free_port() -> int:
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port > 20_000:  # below are Ray's workers
            return port


def home_with(folder: Path, token: str | None) -> Path:
    folder.mkdir()
    if token is not None:
        (folder / ".ray").mkdir(mode=0o700)
        (folder / ".ray" / "auth_token").write_text(token)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """start(command, home) runs a start command of a cluster file; what it started is killed at the end."""

    def run(command: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
        environ = environment(home, **more) | {"PATH": f"{Path(RAY).parent}:/usr/bin:/bin"}
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environ, timeout=120, check=False
        )

    yield run
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME", "").startswith(str(tmp_path)):
                process.kill()


def connect(address: str, home: Path, **more: str) -> str:
    code = CONNECT.replace("sys.argv[1]", repr(address))
    done = python(code, home, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_start_commands_of_ray_up_make_a_cluster_that_strangers_cannot_use(
    tmp_path: Path, short: Path, start: Callable[..., Any]
) -> None:
    """The commands of ray-onprem.yaml as they stand (without `ray stop`, which would end other people's Rays), in fresh
    homes on two addresses, with the token where its file_mounts puts it."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "ray-onprem.yaml").read_text())
    (mount,) = config["file_mounts"]
    assert mount == "~/.ray/auth_token"
    port = free_port()
    here = f"--temp-dir={short} --num-cpus=1 --include-dashboard=false"
    head_command = config["head_start_ray_commands"][-1].replace("--port=6379", f"--port={port}")
    head_command = head_command.replace(" --autoscaling-config=~/ray_bootstrap_config.yaml", "")
    head_command = head_command.replace("--num-cpus=0 ", "").replace("--dashboard-host=127.0.0.1", "")
    worker_command = config["worker_start_ray_commands"][-1].replace(":6379", f":{port} --node-ip-address=127.0.0.3")

    none = start(f"{head_command} {here} --node-ip-address=127.0.0.2", home_with(tmp_path / "none", None))
    assert none.returncode != 0, "without a token nothing starts"
    head = home_with(tmp_path / "head", "a" * 64)
    done = start(f"{head_command} {here} --node-ip-address=127.0.0.2", head)
    assert done.returncode == 0, done.stdout + done.stderr
    address = f"127.0.0.2:{port}"
    worker = f"{worker_command} --num-cpus=1"
    stranger = home_with(tmp_path / "stranger", None)
    assert start(worker.replace("RAY_AUTH_MODE=token ", ""), stranger, RAY_HEAD_IP="127.0.0.2").returncode != 0
    second = home_with(tmp_path / "worker", "a" * 64)
    done = start(worker, second, RAY_HEAD_IP="127.0.0.2")
    assert done.returncode == 0, done.stdout + done.stderr

    said = connect(address, second)
    assert "gcs_client" not in said
    assert "NODES ['127.0.0.2', '127.0.0.3']" in said
    assert "RAN 5" in said
    assert "WARNED" not in said
    assert stat.S_IMODE((second / ".ray" / "auth_token").stat().st_mode) == 0o600

    began = time.monotonic()
    said = connect(address, stranger)
    assert f"REFUSED the Ray cluster at {address} asks for a token, and there is none here" in said
    assert "ray get-auth-token" in said
    assert "RAY_AUTH_TOKEN_PATH" in said
    said = connect(address, home_with(tmp_path / "other", "b" * 64))
    assert f"REFUSED the Ray cluster at {address} has another token than {tmp_path}/other/.ray/auth_token" in said
    assert "RAN" not in said
    assert time.monotonic() - began < 100, "it tried again and again"
    (tmp_path / "elsewhere").write_text("a" * 64)
    assert "RAN 5" in connect(address, stranger, RAY_AUTH_TOKEN_PATH=str(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_cluster_without_authentication_is_used_with_a_warning(
    tmp_path: Path, short: Path, start: Callable[..., Any]
) -> None:
    """`ray start --head` in a fresh home, as Ray 2.60 does it: also with a token in the home of whoever connects."""
    port = free_port()
    command = f"ray start --head --port={port} --node-ip-address=127.0.0.2 --temp-dir={short} --num-cpus=1"
    done = start(f"{command} --include-dashboard=false", home_with(tmp_path / "head", None))
    assert done.returncode == 0, done.stdout + done.stderr
    for home in (tmp_path / "head", home_with(tmp_path / "with", "a" * 64)):
        said = connect(f"127.0.0.2:{port}", home)
        assert "asks for no token: everyone who can reach it can run code as its user" in said
        assert "WARNED" in said
        assert "RAN 5" in said
