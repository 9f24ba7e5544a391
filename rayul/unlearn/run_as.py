"""Modules that run as other functions for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def run_as(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """For the length of a block, these modules run as these functions. None of them may do so already."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
