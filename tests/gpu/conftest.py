"""Tests of `pytest -m gpu`: skipped without a card, unless RAYUL_TOY=1 runs what a CPU can of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))  # the helpers of the sweeps' tests

TOY = os.environ.get("RAYUL_TOY") == "1"


@pytest.fixture(autouse=True)
def card(request: pytest.FixtureRequest) -> None:
    import torch

    marker = request.node.get_closest_marker("gpu")
    if marker is None or torch.cuda.is_available():
        return
    if not TOY or "card_only" in request.fixturenames:
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture
def card_only() -> None:
    """For tests that RAYUL_TOY cannot run either."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What compiles comes last: it takes the longest, and the time may end before it."""
    items.sort(key=lambda item: bool(getattr(item, "callspec", None) and item.callspec.params.get("compiled")))
