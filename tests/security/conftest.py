"""What several of these tests need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def adapter(task: Any, make_spec: Callable[..., Any], tmp_path: Path) -> Path:
    """A LoRA adapter on the tiny model, as a sweep saves it."""
    from rayul.unlearn.update.lora import LoraUpdate, attach_lora
    from rayul.unlearn.update.saved import detach_adapter

    model = attach_lora(task.base, make_spec().lora, 0)
    LoraUpdate(model).save(1.0, tmp_path / "adapter")
    detach_adapter(model)
    return tmp_path / "adapter"
