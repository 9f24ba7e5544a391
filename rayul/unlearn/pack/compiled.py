"""torch.compile for a pack's forwards: what it needs, and how it is set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from rayul.errors import InputError

SHAPES = 64
"""Forwards that one process may compile: torch stops at 8, of which an evaluation alone takes one for each length."""


def compiled_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` and its backward compiled once for every shape that it meets; a graph that torch cannot take whole is
    an error. What was compiled stays in torch's cache on the disk, for the next sweep of these shapes."""
    dynamo, inductor = torch._dynamo.config, torch._inductor.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    inductor.compile_threads = 1  # else every device holds a pool of compilers until it ends
    compiled: Callable[..., Any] = torch.compile(forward, dynamic=False, fullgraph=True)
    return compiled


def require_compiler() -> None:
    """InputError where there is no C++ compiler, which torch.compile calls on a CPU."""
    wanted = torch._inductor.config.cpp.cxx
    names = [name for name in (wanted if isinstance(wanted, tuple | list) else (wanted,)) if name]
    if not any(shutil.which(name) for name in [*names, "clang++"]):
        raise InputError(
            f"resources.compile: true takes a C++ compiler, and there is no {' or '.join(names)} here",
            "install one (g++), name it in CXX, or set resources.compile: false",
        )
