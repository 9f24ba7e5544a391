"""Compiled programs are kept by what the processor can do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CODE = """
import torch
from rayul.unlearn.compiled import compile_once

def function(x, w):
    return torch.softmax(torch.nn.functional.silu(x @ w) * 3, -1).sum(0)

torch.manual_seed(0)
x, w = torch.randn(24, 40), torch.randn(40, 50)
torch.testing.assert_close(compile_once(function)(x, w), function(x, w))
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="takes a processor with AVX-512")
def test_what_was_compiled_for_wider_vectors_is_not_run_with_narrower_ones(tmp_path: Path) -> None:
    """As on two nodes that share a home folder: in one folder of torch's, the second program computes 2e29."""
    environ = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"} | {"RAYUL_CACHE": str(tmp_path)}
    for capability in ("AVX512", "AVX2"):
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environ | {"ATEN_CPU_CAPABILITY": capability.lower()},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == capability
