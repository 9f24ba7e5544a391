"""Hidden states with something added to them, for rules that perturb what lies between the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import ModuleList

from rayul.errors import InputError
from rayul.spec import Spec
from rayul.unlearn.task import Task


class Room(NamedTuple):
    """Where a perturbation of a step's forget rows may be: layers, by the number of blocks before them; questions
    [N, T] bool, the tokens before each row's answer."""

    layers: tuple[int, ...]
    questions: Tensor
    dim: int

    @classmethod
    def of(cls, task: Task, spec: Spec, rows: Sequence[int]) -> Room:
        """T is that of the longest forget row, so that it is the same in every batch."""
        examples = task.training["forget"]
        at = torch.arange(max(len(e.ids) for e in examples))
        questions = at < torch.tensor([[examples[i].start] for i in rows])
        return cls(latent_layers(task.base, spec), questions.to(task.device), task.base.config.hidden_size)

    def nought(self) -> Tensor:
        """[N, T, L, D]."""
        rows, length = self.questions.shape
        return torch.zeros(rows, length, len(self.layers), self.dim, device=self.questions.device)

    def inside(self, gradient: Tensor) -> Tensor:
        """The gradient where something may be added, 0 elsewhere."""
        return torch.where(self.questions[:, :, None, None], gradient, 0.0)


def numbered(config: Any, name: str, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """Numbers of blocks; null is the middle. InputError beyond the last. name: of the method's parameter."""
    blocks = config.num_hidden_layers
    layers = [max(1, blocks // 2)] if given is None else [given] if isinstance(given, int) else given
    for layer in layers:
        if layer > blocks:
            raise InputError(
                f"method.{name} {layer}: the model has {blocks} blocks", "name one of them, or null for the middle"
            )
    return tuple(layers)


def latent_layers(model: Any, spec: Spec) -> tuple[int, ...]:
    """Those of the latent rule. InputError for a model without blocks to add to, and for a number beyond the last."""
    blocks_of(model)
    return numbered(model.config, "latent_layers", spec.method.parameters["latent_layers"])


def blocks_of(model: Any) -> ModuleList:
    """The blocks of a model, in their order."""
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return module
    raise InputError(f"{type(model).__name__} has no list of {count} blocks", "choose another method.gradient")


def adding(forward: Callable[..., Any], added: Tensor) -> Callable[..., Any]:
    """The forward of a block, its output [N, T, D] with `added` of the same shape."""

    def added_to(*arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        if isinstance(output, tuple):
            return (output[0] + added.to(output[0].dtype), *output[1:])
        return output + added.to(output.dtype)

    return added_to


@contextmanager
def perturbed(model: Any, added: Mapping[int, Tensor]) -> Iterator[None]:
    """Within the block, each [N, T, D] is added to what comes out after that many blocks."""
    blocks = blocks_of(model) if added else ()
    before = {number: vars(blocks[number - 1]).get("forward") for number in added}
    try:
        for number, one in added.items():
            blocks[number - 1].forward = adding(blocks[number - 1].forward, one)
        yield
    finally:
        for number, forward in before.items():
            del blocks[number - 1].forward
            if forward is not None:
                blocks[number - 1].forward = forward
