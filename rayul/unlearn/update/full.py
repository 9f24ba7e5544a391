"""`update: full`: all weights of the model, trained in a copy of the base; saved as a whole model, in float32.

The base stays as it is: it is the reference, one end of the mixing, and what the copy starts from. A trial takes 20
bytes a weight: base, copy, gradient and Adam's two moments, 4 each. With a base in bfloat16 the copy is in float32 all
the same, since a small step would be rounded away: 18 bytes, and forwards in float32, while the reference and the
baseline's rows are computed in bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rayul.files import whole_folder
from rayul.spec import Spec
from rayul.unlearn.task import Task
from rayul.unlearn.update.contract import Update
from rayul.unlearn.update.saved import lerped

_IDLE: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Copies that no trial has, by the base that they were made of: a process that runs trial after trial copies once."""


def attach(task: Task, spec: Spec, seed: int) -> Update:
    """Nothing is drawn, so the seed is that of the rows' order alone."""
    return FullUpdate(task.base, task.tokenizer)


class FullUpdate:
    """base: frozen. tokenizer: what is saved with the model."""

    def __init__(self, base: Any, tokenizer: Any) -> None:
        self.base, self.tokenizer = base, tokenizer
        idle = _IDLE.pop(base, None)
        self.model = copy.deepcopy(base).float().requires_grad_(True) if idle is None else idle
        self.parameters: list[Tensor] = list(self.model.parameters())
        with torch.no_grad():
            for p, before in self._pairs():
                p.copy_(before)

    def reference(self) -> AbstractContextManager[Any]:
        return nullcontext(self.base)

    def mixed(self, a: float) -> AbstractContextManager[None]:
        """For a < 1 in further memory of the size of the weights, which a step needs for their gradient."""
        return lerped(self.model, self.base, a)

    def unadapted(self) -> AbstractContextManager[tuple[Any, Mapping[Any, Tensor]]]:
        return nullcontext((self.model, {}))

    @torch.no_grad()
    def project_into_ball(self, radius: float, norm: str) -> None:
        for p, before in self._pairs():
            start = before.to(p.dtype)
            change = p - start
            if norm == "frobenius":
                size = change.norm()
                if size > radius:
                    p.copy_(start + change * (radius / size))
            else:
                p.copy_(start + change.clamp(-radius, radius))

    def save(self, mixing: float, folder: Path) -> None:
        with whole_folder(folder) as temporary, self.mixed(mixing):
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)

    def detach(self) -> None:
        for p in self.parameters:
            p.grad = None
        _IDLE[self.base] = self.model

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each trained tensor with what it was before."""
        return zip(self.parameters, self.base.parameters(), strict=True)
