"""Real sweeps on several nodes in one machine: how trials spread, what happens to nodes that come and go, and nodes
that do not see the driver's disk (in a mount namespace of their own, where an empty one lies over it)."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from driver import ended, key, rows, start, sweep, write_spec
from pyarrow import fs
from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster
from test_faults import wait

from rayul.spec import load_spec
from rayul.sweep.driver_disk import served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LONG = {"lr": {"float": [1e-4, 1e-3], "log": True}, "batch_size": 4, "steps": 40, "evaluate_every": 4}
ONE_GPU = {"gpu": 1, "cpu": 1}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without cores or GPUs, so that no trial runs on it. This process is connected too, to look on."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def busy_nodes(nodes: list[Any]) -> set[str]:
    """Ids of these nodes that have given away a GPU."""
    free = available_resources_per_node()
    return {node.node_id for node in nodes if not free.get(node.node_id, {}).get("GPU")}


def said_until(words: str, process: subprocess.Popen[str]) -> str:
    """What a process has written to stderr when it has said these words."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_trials_spread_over_the_nodes(
    cluster: Cluster, count: int, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(count)]
    cluster.wait_for_nodes()
    search = {"sampler": "random", "trials": 2 * count}
    spec = write_spec(
        tmp_path / "tiny.yaml", tiny_folder, data_folder, training=LONG, search=search, resources=ONE_GPU, control=[]
    )
    driver = start(spec, tmp_path, "--address", cluster.address)
    busy: set[str] = set()
    at_once = 0
    while driver.poll() is None:
        now = busy_nodes(nodes)
        busy, at_once = busy | now, max(at_once, len(now))
        time.sleep(0.05)
    _, err = driver.communicate()
    assert driver.returncode == 0, err
    assert f"Ray cluster {cluster.address}: {count + 1} node" in err
    assert f"{count} GPU, {count} CPU: {count} trial{'s' * (count > 1)} at a time, 1 GPU each" in err
    assert busy == {node.node_id for node in nodes}
    assert at_once == count
    assert ended(tmp_path / "tiny") == dict.fromkeys((f"{n:04d}" for n in range(2 * count)), "completed")
    assert len({key(row) for row in rows(tmp_path / "tiny")}) == len(rows(tmp_path / "tiny"))


@pytest.mark.parametrize("notice", [False, True], ids=["at once", "with notice"])
def test_a_node_is_lost_and_another_joins(
    notice: bool, cluster: Cluster, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    first, second = (cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2))
    cluster.wait_for_nodes()
    folder = tmp_path / "tiny"
    search = {"sampler": "random", "trials": 8}
    spec = write_spec(
        tmp_path / "tiny.yaml", tiny_folder, data_folder, training=LONG, search=search, resources=ONE_GPU, control=[]
    )
    driver = start(spec, tmp_path, "--address", cluster.address)
    wait(lambda: len(rows(folder)) >= 6 and busy_nodes([first, second]) == {first.node_id, second.node_id}, driver)
    before = (folder / "evaluations.jsonl").read_bytes()
    cluster.remove_node(second, allow_graceful=notice)
    third = cluster.add_node(num_cpus=1, num_gpus=1)
    wait(lambda: third.node_id in busy_nodes([third]), driver)
    out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, err
    assert "aylet" not in out + err, "nothing of Ray's own output"
    said = [line for line in err.splitlines() if " was lost; its 1 trial starts again on " in line]
    assert len(said) == 1, err
    assert "Traceback" not in err
    assert len(err.splitlines()) < 30, err
    after = (folder / "evaluations.jsonl").read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    assert ended(folder) == dict.fromkeys((f"{n:04d}" for n in range(8)), "completed")
    assert len({key(row) for row in rows(folder)}) == len(rows(folder))


@pytest.mark.parametrize("together", [1, 2], ids=["alone", "in packs"])
def test_a_cluster_that_grows_is_asked_for_what_does_not_fit_yet(
    together: int, cluster: Cluster, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """No GPU is there when the sweep begins: it waits for the first node, and uses the second when that comes."""
    folder = tmp_path / "tiny"
    spec = write_spec(
        tmp_path / "tiny.yaml",
        tiny_folder,
        data_folder,
        training=LONG,
        search={"sampler": "random", "trials": 8},
        resources=ONE_GPU | {"concurrency": 2 * together, "trials_per_gpu": together},
        control=[],
    )
    driver = start(spec, tmp_path, "--address", cluster.address)
    err = said_until("waiting for a node with a GPU to join, then measuring baseline", driver)
    first = cluster.add_node(num_cpus=1, num_gpus=1)
    wait(lambda: len(rows(folder)) >= 3, driver)
    second = cluster.add_node(num_cpus=1, num_gpus=2)
    wait(lambda: busy_nodes([first]) != set() and available_resources_per_node()[second.node_id]["GPU"] == 1, driver)
    err += driver.communicate(timeout=280)[1]
    assert driver.returncode == 0, err
    packs = " (packs of 2)" if together > 1 else ""
    asked = f"{2 * together} trials at a time, {1 / together:g} GPU each{packs}: 2 GPU asked for, room for 0 now"
    assert f"{asked}, the rest wait for nodes to join" in err
    assert err.count("PyTorch sees none in the processes of the trials") == 1, "these GPUs are only counted"
    assert len(ended(folder)) == 8


def test_a_cluster_without_the_gpus_that_trials_ask_for_is_refused_or_waited_for(
    cluster: Cluster, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """`plan` waits for a node, as the sweep would, and says so."""
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, resources=ONE_GPU)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    done = sweep(spec, tmp_path, "--address", cluster.address)
    assert done.returncode == 2, done.stderr
    assert "the cluster has none now (1 CPU)" in done.stderr
    assert "set resources.concurrency" in done.stderr
    assert "resources.gpu=0" in done.stderr
    assert not (tmp_path / "tiny").exists()
    words = ["plan", str(spec), "--address", cluster.address, "--set", "resources.concurrency=2"]
    plan = subprocess.Popen(
        [sys.executable, "-m", "rayul", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said_until("waiting for a node with a GPU to join the cluster", plan)
    cluster.add_node(num_cpus=1, num_gpus=1)
    out, err = plan.communicate(timeout=280)
    assert plan.returncode == 0, err
    assert "PyTorch sees none" in out + err


# --- nodes that do not see the driver's disk ----------------------------------------------------------------------


@pytest.fixture
def blind_node(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """blind_node(folder): a node of two cores for which the folder is an empty one of its own."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a mount namespace needs root and unshare")
    started: list[subprocess.Popen[str]] = []

    def add(hidden: Path) -> subprocess.Popen[str]:
        ray_start = [str(Path(sys.executable).with_name("ray")), "start", "--address", cluster.address, "--block"]
        ray_start += ["--num-cpus=2", "--num-gpus=0"]
        script = f"mount -t tmpfs tmpfs {shlex.quote(str(hidden))} && exec {shlex.join(ray_start)}"
        node = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        started.append(node)
        deadline = time.monotonic() + 90
        while sum(n["Alive"] for n in ray.nodes()) < 1 + len(started):
            assert node.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return node

    yield add
    for node in started:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(timeout=30)


@pytest.fixture
def hidden_spec(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> Path:
    """Model, results and cache are all in tmp_path/disk; only the driver has it."""
    shutil.copytree(tiny_folder, tmp_path / "disk" / "model")
    search = {"sampler": "random", "trials": 4}
    training = {"lr": {"float": [1e-3, 1e-1], "log": True}, "batch_size": 4, "steps": 8, "evaluate_every": 2}
    return write_spec(
        tmp_path / "tiny.yaml",
        tmp_path / "disk" / "model",
        data_folder,
        training=training,
        search=search,
        control=[],
        resources={"gpu": 0},
    )


def test_results_that_a_node_does_not_see_are_refused_with_the_way_out(
    cluster: Cluster, blind_node: Any, hidden_spec: Path, tmp_path: Path
) -> None:
    blind_node(tmp_path / "disk")
    done = sweep(hidden_spec, tmp_path / "disk" / "results", "--address", cluster.address)
    assert done.returncode == 2, done.stderr
    assert "cannot be written to from" in done.stderr
    assert "--results s3://" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "disk" / "results" / "tiny").exists()


def test_blind_nodes_get_the_model_once_and_their_adapters_come_back(
    cluster: Cluster,
    blind_node: Any,
    hidden_spec: Path,
    tmp_path: Path,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "disk" / "cache"))
    node = blind_node(tmp_path / "disk")
    url = f"{s3}/{tmp_path.name}"
    done = sweep(hidden_spec, tmp_path, "--address", cluster.address, "--results", url)
    assert done.returncode == 0, done.stderr
    assert "is missing" not in done.stderr
    assert "from its record" not in done.stderr
    assert f"{url}/tiny/report.html" in done.stdout
    filesystem, root = fs.FileSystem.from_uri(f"{url}/tiny")
    infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    there = {info.path[len(root) + 1 :] for info in infos if info.type == fs.FileType.File}
    assert {"spec.yaml", "evaluations.jsonl", "study.journal", "report.html", "pareto.csv"} <= there
    adapters = {name.split("/")[1] for name in there if name.startswith("adapters/")}
    assert adapters, "some trial must forget enough to be on the front"
    for name in adapters:
        files = {"adapter_config.json", "adapter_model.safetensors", "rayul.json"}
        assert {f"adapters/{name}/{file}" for file in files} <= there
        with filesystem.open_input_stream(f"{root}/adapters/{name}/adapter_config.json") as stream:
            assert str(tmp_path / "disk" / "model") in stream.read().decode(), "its base is named as the driver does"
    of_the_node = Path(f"/proc/{node.pid}/root{tmp_path}/disk")
    assert not (of_the_node / "results").exists()
    (fetched,) = [path for path in (of_the_node / "cache" / "models").iterdir() if path.is_dir()]
    assert (fetched / "model.safetensors").read_bytes() == (tmp_path / "disk/model/model.safetensors").read_bytes()

    # Another machine, which has nothing but the URL, goes on.
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "disk" / "other"))
    more = sweep(hidden_spec, tmp_path, "--results", url, "--resume", "--trials", "6")
    assert more.returncode == 0, more.stderr
    for command in ("status", "report"):
        read = subprocess.run(
            [sys.executable, "-m", "rayul", command, f"{url}/tiny"], capture_output=True, text=True, check=False
        )
        assert read.returncode == 0, read.stderr
    with filesystem.open_input_stream(f"{root}/evaluations.jsonl") as stream:
        lines = stream.read().decode().splitlines()
    assert len({json.loads(line)["trial_id"] for line in lines}) == 1 + 6


def test_a_model_travels_to_a_node_once_however_many_workers_ask(tmp_path: Path, tiny_folder: Path) -> None:
    """Four workers at once on a node that has other files at the paths of the model and of its tokenizer."""
    words = tmp_path / "words"
    words.mkdir()
    for file in tiny_folder.glob("tokenizer*"):
        shutil.copy(file, words)
    named = f"{{path: {tiny_folder}, tokenizer: {words}}}"
    (tmp_path / "spec.yaml").write_text(
        f"name: tiny\nmodel: {named}\ndata: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}\n"
    )
    spec = load_spec(tmp_path / "spec.yaml")
    cache = {"env_vars": {"RAYUL_CACHE": str(tmp_path / "cache")}}
    ray.init(
        "local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=cache
    )
    try:
        with served(tmp_path / "results", spec, remote=True) as disk:
            files = {
                path: {name: (size, 1) for name, (size, _) in found.items()} for path, found in disk.models.items()
            }
            elsewhere = replace(disk, models=files)
            ask = ray.remote(num_cpus=1)(
                lambda d: (d.with_models(spec).model.path, d.with_models(spec).model.tokenizer)
            )
            places = set(ray.get([ask.remote(elsewhere) for _ in range(8)]))
            blocks = ray.get(disk.server.__ray_call__.remote(lambda server: server.blocks_read))
        (found,) = places
        for place, source in zip(found, (tiny_folder, words), strict=True):
            assert Path(place).is_relative_to(tmp_path / "cache")
            assert {p.name: p.read_bytes() for p in Path(place).iterdir()} == {
                p.name: p.read_bytes() for p in source.iterdir()
            }
        assert blocks == sum(map(len, files.values())), "every file is smaller than a block, and read once"
    finally:
        ray.shutdown()


# --- ray job submit -------------------------------------------------------------------------------------------------


def test_a_sweep_is_submitted_to_a_cluster_from_outside(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """cluster/submit.sh against a head of its own, with Ray's token authentication on. The driver finds the cluster
    that it runs in by RAY_ADDRESS, which the job has from Ray."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for free in (one, two, three):
            free.bind(("127.0.0.1", 0))
        port, dashboard, agent = (free.getsockname()[1] for free in (one, two, three))
    binaries = Path(sys.executable).parent
    environment = {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test-" + "0" * 20,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAYUL_RUNTIME_ENV": str(tmp_path / "env.yaml"),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "work").mkdir()
    write_spec(tmp_path / "work" / "tiny.yaml", tiny_folder, data_folder, resources={"gpu": 0})
    env_vars = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    (tmp_path / "env.yaml").write_text(json.dumps({"working_dir": str(tmp_path / "work"), "env_vars": env_vars}))
    flags = [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    flags += [f"--dashboard-agent-listen-port={agent}"]  # the default may be another Ray's
    head = subprocess.Popen(
        [str(binaries / "ray"), "start", "--head", "--block", "--include-dashboard=true", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):
            assert head.poll() is None, head.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        submit = ["bash", str(ROOT / "cluster" / "submit.sh"), "tiny.yaml", "--results", str(tmp_path / "results")]
        submit += ["--trials", "3"]
        while True:
            done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=280, check=False)
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(2)  # the head's agent for jobs comes up after its dashboard
        assert done.returncode == 0, done.stdout + done.stderr
        assert f":{port}: 1 node, 2 CPU, no GPU" in done.stdout + done.stderr
        assert len(ended(tmp_path / "results" / "tiny")) == 3
        refused = environment | {"RAY_AUTH_TOKEN": "another-token-" + "0" * 20}
        done = subprocess.run(submit, env=refused, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode != 0
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=60)
