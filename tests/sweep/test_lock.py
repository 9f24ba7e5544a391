"""One driver holds a results folder, by whatever name and from whatever machine another one comes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayul.errors import RayulError
from rayul.sweep.lock import held, is_held, mark_path

NO_LOCKS = "int flock(int file, int how) { return 0; }"
"""What a file system does that keeps no locks for other machines: every one is granted."""

HOLD = """
import sys, time
from pathlib import Path
from rayul.sweep import lock

lock.RENEWED, lock.WATCHED = 0.5, 3.0
with lock.held(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_link_to_a_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real" / "s").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "short").symlink_to(tmp_path / "real" / "s")
    with held(tmp_path / "real" / "s"):
        for other in (tmp_path / "linked" / "s", tmp_path / "short", tmp_path / "real" / ".." / "short"):
            assert is_held(other)
            with pytest.raises(RayulError, match="another sweep is writing"), held(other):
                pass
    assert not is_held(tmp_path / "short")
    with held(tmp_path / "short"):
        assert is_held(tmp_path / "real" / "s")
    assert not mark_path(tmp_path / "short").exists()


def test_a_sweep_that_did_not_begin_leaves_nothing(tmp_path: Path) -> None:
    with held(tmp_path / "s"):
        assert is_held(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "s"):
        (tmp_path / "s").mkdir()
    with held(tmp_path / "s"):
        assert is_held(tmp_path / "s")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="another host name needs root, unshare")
@pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler makes the file system without locks")
def test_a_driver_of_another_machine_is_seen_where_the_file_system_keeps_no_locks(tmp_path: Path) -> None:
    """While it lives it is named, and when it has been killed, its folder is free after a while."""
    (tmp_path / "locks.c").write_text(NO_LOCKS)
    library = tmp_path / "locks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "locks.c"], check=True)

    def driver(machine: str, seconds: float) -> subprocess.Popen[str]:
        script = f'hostname {machine} && exec "$@"'
        python = [sys.executable, "-c", HOLD, str(tmp_path / "s"), str(seconds)]
        return subprocess.Popen(
            ["unshare", "-u", "sh", "-c", script, "sh", *python],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_PRELOAD": str(library)},
        )

    first = driver("first", 60)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        out, err = driver("second", 0).communicate(timeout=60)
        assert "first was the last to write" in out
        assert "RayulError: another sweep is writing" in err
        assert "on first" in err
    finally:
        first.kill()
        first.communicate()
    third = driver("second", 0)
    out, err = third.communicate(timeout=60)
    assert third.returncode == 0, err
    assert out.startswith("first was the last to write")
    assert out.splitlines()[-1] == "held"
