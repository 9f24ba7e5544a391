"""What is in cluster/, checked as far as it goes without its clouds: by shells, by Ray's and Kubernetes' own schemas,
and every `rayul` command by the real command line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner

from rayul.cli import app

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.iterdir() if path.is_file())
SCRIPTS = [CLUSTER / "submit.sh", CLUSTER / "slurm.sbatch"]
RAY_UP = sorted(CLUSTER.glob("ray-*.yaml"))
KUBERAY = sorted(CLUSTER.glob("kuberay-*.yaml"))

# The fields of KubeRay's API reference (ray.io/v1) for what stands in our manifests. The CRD itself is in no package.
RAY_CLUSTER_SPEC = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "workerGroupSpecs",
}
AUTOSCALER_OPTIONS = {
    "env",
    "envFrom",
    "idleTimeoutSeconds",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "upscalingMode",
    "version",
    "volumeMounts",
}
HEAD_GROUP_SPEC = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKER_GROUP_SPEC = {
    "groupName",
    "idleTimeoutSeconds",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "scaleStrategy",
    "suspend",
    "template",
}
RAY_JOB_SPEC = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}


def test_everything_that_was_asked_for_is_there() -> None:
    assert {path.name for path in FILES} == {
        "README.md",
        "Dockerfile",
        "runtime_env.yaml",
        "slurm.sbatch",
        "ray-aws.yaml",
        "ray-onprem.yaml",
        "kuberay-rayjob.yaml",
        "kuberay-raycluster.yaml",
        "kubernetes-volume.yaml",
        "submit.sh",
    }


# --- shells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    for command in (["bash", "-n"], [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash"]):
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "set -euo pipefail" in script.read_text()


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def run_script(
    script: Path, arguments: list[str], bin_: Path, *, at: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """The script with stand-ins for programs of the cluster, which are first on PATH. at: where the user stands."""
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(bin_), **env}
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=at,
        timeout=60,
        check=False,
    )


def test_the_slurm_script_runs_one_ray_over_all_nodes_and_goes_on_when_requeued(tmp_path: Path) -> None:
    stand_in(tmp_path, "rayul", "")
    stand_in(tmp_path, "scontrol", '[ "$1" = show ] && printf "n1\\nn2\\nn3\\n" || echo "scontrol $*"')
    srun = 'echo "$@"; while [ "${1#-}" != "$1" ]; do shift; done; SLURM_GPUS_ON_NODE=2 exec "$@"'
    stand_in(tmp_path, "srun", srun)  # a step whose node has two of the GPUs
    stand_in(tmp_path, "ray", 'printf "%s\\n" "$@"; echo "offline $HF_HUB_OFFLINE"')
    slurm = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_ID": "20007"}
    slurm |= {"SLURM_CPUS_PER_TASK": "32", "SLURM_GPUS_ON_NODE": "4"}
    done = run_script(CLUSTER / "slurm.sbatch", ["my spec.yaml", "/shared/r", "--trials", "8"], tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert {"--nodes=3", "--cpus-per-task=32"} <= set(words[0].split())
    assert words[1] == "symmetric-run"
    assert words[words.index("--address") + 1] == "n1:20007"
    assert words[words.index("--min-nodes") + 1] == "3"
    assert words[words.index("--num-gpus") + 1] == "2"
    assert words[words.index("--num-cpus") + 1] == "32"
    command = words[words.index("--") + 1 : -1]
    assert command[:3] == ["rayul", "sweep", "my spec.yaml"]
    assert parsed(command)["resume_if_any"] is True
    assert words[-1] == "offline 1"


def test_the_slurm_script_makes_a_token_that_only_its_user_reads_or_takes_the_one_there(tmp_path: Path) -> None:
    stand_in(tmp_path, "rayul", "")
    stand_in(tmp_path, "scontrol", "echo n1")
    stand_in(tmp_path, "srun", 'echo "mode $RAY_AUTH_MODE"; echo "$@" >> "$HOME/words"; env > "$HOME/environment"')
    slurm = {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    token = tmp_path / ".ray" / "auth_token"
    tokens = set()
    for _ in range(2):
        done = run_script(CLUSTER / "slurm.sbatch", ["spec.yaml", "/shared/r"], tmp_path, **slurm)
        assert (done.returncode, done.stdout) == (0, "mode token\n"), done.stderr
        tokens.add(token.read_text())
        assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        token.chmod(0o644)  # as Ray itself writes it
    (made,) = tokens
    assert re.fullmatch("[0-9a-f]{64}", made)
    assert made not in (tmp_path / "words").read_text() + (tmp_path / "environment").read_text() + done.stderr
    other = tmp_path / "shared" / "token"
    done = run_script(CLUSTER / "slurm.sbatch", ["spec.yaml", "/r"], tmp_path, **slurm, RAY_AUTH_TOKEN_PATH=str(other))
    assert done.returncode == 0, done.stderr
    assert len(other.read_text()) == 64


def test_the_slurm_script_told_of_its_end_stops_the_run_and_is_queued_again(tmp_path: Path) -> None:
    """SLURM's notice comes as SIGTERM to the script (--signal=B:TERM)."""
    stand_in(tmp_path, "rayul", "")
    stand_in(tmp_path, "scontrol", f'[ "$1" = show ] && echo n1 || echo "$*" >> {tmp_path}/said')
    stand_in(
        tmp_path,
        "srun",
        f"trap 'echo stopped >> {tmp_path}/said; exit 0' TERM; kill -TERM $PPID; sleep 20 > /dev/null 2>&1 & wait",
    )
    slurm = {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    done = run_script(CLUSTER / "slurm.sbatch", ["spec.yaml", "/shared/r"], tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text().split("\n")[:2] == ["stopped", "requeue 7"]


def test_the_slurm_script_activates_the_environment_it_is_told_or_says_how(tmp_path: Path) -> None:
    stand_in(tmp_path, "scontrol", "echo n1")
    stand_in(tmp_path, "srun", "command -v rayul")
    slurm = {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    done = run_script(CLUSTER / "slurm.sbatch", ["spec.yaml", "/r"], tmp_path, **slurm)
    assert done.returncode == 2
    assert "set RAYUL_VENV" in done.stderr
    programs = tmp_path / "my venv" / "bin"
    programs.mkdir(parents=True)
    stand_in(programs, "rayul", "")
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    venv = str(programs.parent)
    done = run_script(CLUSTER / "slurm.sbatch", ["spec.yaml", "/r"], tmp_path, **slurm, RAYUL_VENV=venv)
    assert (done.returncode, done.stdout) == (0, f"{programs}/rayul\n"), done.stderr


def with_token(home: Path) -> Path:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef")
    return token


def test_submit_takes_the_token_that_is_there_and_stops_without_one(tmp_path: Path) -> None:
    stand_in(tmp_path, "ray", 'echo "mode $RAY_AUTH_MODE"; echo "$@" > "$HOME/words"')
    arguments = ["/shared/spec.yaml", "--results", "/shared/results"]
    done = run_script(CLUSTER / "submit.sh", arguments, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ray get-auth-token" in done.stderr
    token = with_token(tmp_path)
    done = run_script(CLUSTER / "submit.sh", arguments, tmp_path)
    assert (done.returncode, done.stdout) == (0, "mode token\n")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() not in (tmp_path / "words").read_text()
    token.unlink()
    for chosen in ({"RAY_AUTH_TOKEN": "abc"}, {"RAY_AUTH_MODE": "disabled"}):
        done = run_script(CLUSTER / "submit.sh", arguments, tmp_path, **chosen)
        assert (done.returncode, done.stdout) == (0, f"mode {chosen.get('RAY_AUTH_MODE', 'token')}\n")


def test_submit_hands_the_command_to_the_cluster_word_by_word(tmp_path: Path) -> None:
    stand_in(tmp_path, "ray", 'printf "%s\\n" "$@"')
    with_token(tmp_path)
    arguments = ["/files/my spec.yaml", "--results=s3://b/sweeps", "--set", "training.steps=3"]
    done = run_script(CLUSTER / "submit.sh", arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:4] == ["job", "submit", "--address", "http://127.0.0.1:8265"]
    assert words[words.index("--") + 1 : words.index("--") + 3] == ["bash", "-c"]
    command = shlex.split(words[-1])
    assert command == ["rayul", "sweep", *arguments, "--resume-if-any"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: "),
        (["--results", "s3://b/sweeps"], "usage: "),
        (["/files/mine.yaml"], "--results is missing"),
        (["/files/mine.yaml", "--trials", "3"], "--results is missing"),
        (["/files/mine.yaml", "--results", "results"], "--results results is relative"),
        (["/files/mine.yaml", "--results=./r"], "--results ./r is relative"),
    ],
)
def test_submit_refuses_results_that_would_be_lost_with_rays_copy(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    stand_in(tmp_path, "ray", "echo submitted")
    with_token(tmp_path)
    done = run_script(CLUSTER / "submit.sh", arguments, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "usage: " in done.stderr
    assert "--results URL-OR-SHARED-FOLDER" in done.stderr


@pytest.mark.parametrize(
    ("where", "spec", "outcome"),
    [
        ("checkout", "mine.yaml", "mine.yaml"),
        ("checkout/mine", "own.yaml", "mine/own.yaml"),
        ("checkout/mine", "../mine.yaml", "mine.yaml"),
        ("elsewhere", "../checkout/mine/own.yaml", "mine/own.yaml"),
        ("elsewhere", "mine.yaml", "mine.yaml"),
        ("elsewhere", "ga", "ga"),
        ("elsewhere", "/files/mine.yaml", "/files/mine.yaml"),
        ("elsewhere", "far.yaml", "refused: copy it and its rows to"),
        ("checkout/results", "old.yaml", "refused: excludes its folder"),
        ("elsewhere", "no.yaml", "refused: no file no.yaml"),
    ],
)
def test_submit_names_a_spec_as_the_cluster_will_find_it(where: str, spec: str, outcome: str, tmp_path: Path) -> None:
    """The command runs in a copy of the checkout, wherever the user stands."""
    stand_in(tmp_path, "ray", 'printf "%s\\n" "$@"')
    with_token(tmp_path)
    for file in ("checkout/mine.yaml", "checkout/mine/own.yaml", "checkout/results/old.yaml", "elsewhere/far.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    script = tmp_path / "checkout" / "cluster" / "submit.sh"
    script.parent.mkdir()
    shutil.copy(CLUSTER / "submit.sh", script)
    done = run_script(script, [spec, "--results", "/shared/r"], tmp_path, at=tmp_path / where)
    if outcome.startswith("refused: "):
        assert (done.returncode, done.stdout) == (2, "")
        assert outcome.removeprefix("refused: ") in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert shlex.split(done.stdout.splitlines()[-1])[:3] == ["rayul", "sweep", outcome]


# --- Ray's own cluster launcher -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", RAY_UP, ids=lambda path: path.name)
def test_ray_up_files_satisfy_rays_schema(file: Path) -> None:
    import ray.autoscaler

    config = yaml.safe_load(file.read_text())
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(config, json.loads(schema.read_text()))
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert [line for line in commands if "ray start" in line and not line.startswith("RAY_AUTH_MODE=token ")] == []


def test_on_aws_no_trial_runs_on_the_head_and_workers_are_spot() -> None:
    config = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    worker = kinds["gpu"]
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] == 0
    assert worker["max_workers"] <= config["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_runtime_environment_is_one_that_ray_takes() -> None:
    from ray.runtime_env import RuntimeEnv

    plain = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())
    made = RuntimeEnv(**plain)
    assert made.env_vars() == plain["env_vars"]
    assert "results/" in made["excludes"]
    assert not any("TOKEN" in name or "SECRET" in name for name in plain["env_vars"])


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def cluster_specs() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in KUBERAY:
        manifest = yaml.safe_load(file.read_text())
        yield file, manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("file", KUBERAY, ids=lambda path: path.name)
def test_manifests_use_documented_fields_only(file: Path) -> None:
    manifest = yaml.safe_load(file.read_text())
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        assert set(spec) <= RAY_JOB_SPEC
        assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
        spec = spec["rayClusterSpec"]
    assert set(spec) <= RAY_CLUSTER_SPEC
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER_OPTIONS
    assert spec["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert set(groups[0]) <= HEAD_GROUP_SPEC
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in groups[1:]:
        assert set(group) <= WORKER_GROUP_SPEC
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("file", KUBERAY, ids=lambda path: path.name)
def test_pod_templates_satisfy_the_kubernetes_schema(file: Path) -> None:
    spec = dict(cluster_specs())[file]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        names = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == names
            assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_volume_and_the_pod_that_fills_it_satisfy_the_kubernetes_schema() -> None:
    claim, pod = yaml.safe_load_all((CLUSTER / "kubernetes-volume.yaml").read_text())
    for one in (claim, pod):
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (volume,) = pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_every_pod_sees_the_users_files_from_a_secret_or_the_volume() -> None:
    claim, _ = yaml.safe_load_all((CLUSTER / "kubernetes-volume.yaml").read_text())
    for file, spec in cluster_specs():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (files,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "files")
            # A job whose entrypoint reads /files must not begin without them.
            is_read = "/files/" in yaml.safe_load(file.read_text())["spec"].get("entrypoint", "")
            assert files == {"secretName": "rayul-files"} | ({} if is_read else {"optional": True})
            assert {"name": "files", "mountPath": "/files"} in pod["containers"][0]["volumeMounts"]
        other = f"# - {{name: files, persistentVolumeClaim: {{claimName: {claim['metadata']['name']}}}}}"
        assert other in file.read_text()
    secret = "kubectl create secret generic rayul-files --from-file=mine.yaml"
    assert all(secret in path.read_text() for path in (CLUSTER / "README.md", *KUBERAY))


def test_every_file_names_one_kuberay() -> None:
    """The first release with authOptions, which the manifests use."""
    named = {
        path.name: set(re.findall(r"KubeRay\S* (\d[\d.]*\d)", re.sub(r"\]\([^)]*\)", "", path.read_text())))
        for path in (*FILES, *(ROOT / "docs").glob("*.md"))
    }
    assert {name: found for name, found in named.items() if found} == {
        name: {"1.5.1"} for name in ("README.md", *(path.name for path in KUBERAY))
    }


def test_a_broken_pod_template_would_be_seen() -> None:
    spec = next(cluster_specs())[1]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **spec["headGroupSpec"]["template"]}
    pod["spec"] = pod["spec"] | {"tolerationz": []}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_trials_run_on_gpu_pods_only() -> None:
    for _, spec in cluster_specs():
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in spec["workerGroupSpecs"]:
            template = group["template"]["spec"]
            assert template["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
            for container in template["containers"]:
                resources = container["resources"]
                assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]


def test_both_manifests_describe_the_same_cluster() -> None:
    """But for the secret with the files, which one of them needs."""
    first, second = (json.dumps(spec).replace(', "optional": true', "") for _, spec in cluster_specs())
    assert first == second


# --- versions and commands ------------------------------------------------------------------------------------------


def test_every_file_names_the_ray_that_rayul_is_bound_to() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    (lowest,) = [s.version for s in bound.specifier if s.operator == ">="]
    assert bound.specifier.contains(version("ray"))
    found = {}
    for file in FILES:
        text = file.read_text()
        named = re.findall(r"rayul:ray([\d.]+\d)", text) + re.findall(r'rayVersion: "([\d.]+)"', text)
        named += re.findall(r"^ARG RAY=([\d.]+)$", text, re.MULTILINE)
        if named:
            found[file.name] = {Version(name) for name in named}
    wanted = Version(lowest)
    assert found == {name: {wanted} for name in found}
    assert {"Dockerfile", "ray-aws.yaml", "ray-onprem.yaml", *(path.name for path in KUBERAY)} <= set(found)


def test_the_image_copies_what_the_package_is_built_from() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[1:-1]]
    for name in copied:
        assert (ROOT / name).exists(), name
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, wheel = configuration["project"], configuration["tool"]["hatch"]["build"]["targets"]["wheel"]
    read = {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"], *wheel["force-include"]}
    assert read <= set(copied)


def commands() -> list[tuple[str, str]]:
    """(file, command) of every `rayul` command: in code blocks, comments, scripts, entrypoints, also what submit.sh and
    the sbatch script are given."""
    found = []
    for file in FILES:
        text = file.read_text().replace("\\\n", " ")
        if file.suffix == ".yaml" and "entrypoint: >-" in text:
            found.append((file.name, yaml.safe_load(text)["spec"]["entrypoint"]))
        if file.suffix == ".md":
            text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        for line in text.splitlines():
            line = line.lstrip("# ").strip()
            line = re.sub(r"^ray (job submit .*-- |exec \S+ ')", "", line).removesuffix("'")
            line = re.sub(r"^(cluster|\$0)?/?submit\.sh ", "rayul sweep ", line)
            line = re.sub(r"^sbatch .*slurm\.sbatch (\S+) (\S+)", r"rayul sweep \1 --results \2", line)
            line = re.sub(r"\s+#.*$| &$| \[flags.*$", "", line)
            if re.match(r"rayul (sweep|status|report|export|plan|validate|compare|init)\b", line) and '"$' not in line:
                found.append((file.name, line))
    return found


def parsed(command: list[str]) -> dict[str, Any]:
    """The values that the real command line makes of a command, without running it."""
    import typer.main

    group = typer.main.get_command(app)
    subcommand = group.commands[command[1]]  # type: ignore[attr-defined]
    context = subcommand.make_context(command[1], command[2:])
    return dict(context.params)


@pytest.mark.parametrize(("file", "command"), commands())
def test_every_rayul_command_is_one_that_the_command_line_takes(file: str, command: str) -> None:
    from rayul.spec import load_spec

    words = shlex.split(command)
    values = parsed(words)
    spec = values.get("file")
    for path in [spec] if spec else []:
        shipped = ROOT / str(path).removeprefix("/home/ray/rayul/")
        if "search_spaces" in str(path):
            here = [one for one in values.get("set_") or () if "=/shared/" not in one]  # a folder of the cluster's
            load_spec(shipped, here)


def test_there_are_commands_in_every_file_that_has_some() -> None:
    assert {"README.md", "ray-aws.yaml", "ray-onprem.yaml", "slurm.sbatch", "submit.sh"} <= {f for f, _ in commands()}
    assert {path.name for path in KUBERAY} <= {file for file, _ in commands()}


def test_a_flag_that_is_none_would_be_seen() -> None:
    result = CliRunner().invoke(app, ["sweep", "spec.yaml", "--no-such-flag"])
    assert result.exit_code == 2


# --- for real, on this machine --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_slurm_script_with_rays_own_symmetric_run(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """One node. Only srun and scontrol are stand-ins; Ray starts, the sweep runs and is resumed, Ray stops."""
    sys.path.insert(0, str(ROOT / "tests" / "sweep"))
    from driver import ended, write_spec

    here = Path(sys.executable).parent
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, resources={"gpu": 0})
    stand_in(tmp_path, "scontrol", '[ "$1" = show ] && echo 127.0.0.1')
    stand_in(tmp_path, "srun", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    stand_in(tmp_path, "ray", f'exec {here}/ray "$@"')
    stand_in(tmp_path, "rayul", f'exec {sys.executable} -m rayul "$@"')
    slurm = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "4711"}
    slurm |= {"SLURM_CPUS_PER_TASK": "2", "PYTHONPATH": str(ROOT), "RAY_TMPDIR": "/tmp"}
    for trials in ("3", "4"):
        environment = {"PATH": f"{tmp_path}:{here}:/usr/bin:/bin", "HOME": str(tmp_path), **slurm}
        done = subprocess.run(
            ["bash", str(CLUSTER / "slurm.sbatch"), str(spec), str(tmp_path / "results"), "--trials", trials],
            capture_output=True,
            text=True,
            env=environment,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ray cluster 127.0.0.1:24711: 1 node, 2 CPU, no GPU" in done.stdout + done.stderr
        assert len(ended(tmp_path / "results" / "tiny")) == int(trials)


def test_shellcheck_is_there() -> None:
    assert shutil.which("shellcheck", path=str(Path(sys.executable).parent))
