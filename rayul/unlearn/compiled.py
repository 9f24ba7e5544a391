"""torch.compile for what a pack computes: what it needs, and how it is set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from rayul.cache import cache_folder
from rayul.errors import InputError

SHAPES = 64
"""Shapes that one process may compile: torch stops at 8, of which an evaluation alone takes one for each length."""


def repeated_blocks(base: Any) -> list[Any]:
    """The blocks that the model repeats. What is compiled for one of them serves all: 16 times less to compile than
    the whole of a model of 16. InputError for a model that has none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise InputError(
            f"resources.compile: {type(base).__name__} has no blocks that repeat", "set resources.compile: false"
        )
    return blocks


@cache
def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` and its backward, compiled once for every shape that it meets. A graph that torch cannot take whole is
    an error. What was compiled stays in torch's cache on the disk, for the next sweep of these shapes."""
    _own_folder()
    dynamo, inductor = torch._dynamo.config, torch._inductor.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 4 * SHAPES)
    if not torch.cuda.is_available():
        inductor.compile_threads = 1  # else every device holds a pool of compilers until it ends
    result: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
    return result


def _own_folder() -> None:
    """Have torch keep what it compiles in rayul's cache folder, unless somebody chose another place.

    Torch's own choice, which it notes in the environment as soon as its compiler is imported, is a guessable name in
    /tmp: whoever makes that folder first has what they lay there run. A folder for each set of vector instructions:
    torch 2.13 takes a program that was generated for AVX-512 where AVX2 is asked for, and it computes NaN.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):
        instructions = torch.backends.cpu.get_cpu_capability().lower()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled" / instructions)


def call_block(block: Any, *arguments: Any, **keywords: Any) -> Any:
    """What is compiled for all blocks: the block is an argument."""
    return type(block).forward(block, *arguments, **keywords)


def require_compiler() -> None:
    """InputError where there is no C++ compiler, which torch.compile calls on a CPU."""
    if missing := missing_compiler():
        raise InputError(
            f"resources.compile: true takes a C++ compiler, and {missing}",
            "install one (g++), name it in CXX, or set resources.compile: false",
        )


def missing_compiler() -> str | None:
    """That there is no C++ compiler here, in words, or None."""
    wanted = torch._inductor.config.cpp.cxx
    names = [name for name in (wanted if isinstance(wanted, tuple | list) else (wanted,)) if name]
    found = any(shutil.which(name) for name in [*names, "clang++"])
    return None if found else f"there is no {' or '.join(names)} here"
