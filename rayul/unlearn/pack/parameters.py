"""All adapters of a pack as rows of one matrix, and the views that the layers multiply with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayul.errors import InputError
from rayul.spec import Lora
from rayul.unlearn.pack.whole_input import check_whole_input
from rayul.unlearn.update.lora import attach_smallest, fresh_b, lora_layers
from rayul.unlearn.update.saved import detach_adapter

Pair = tuple[Tensor, Tensor]
"""A [K, d, R] and B [K, R, o] of one linear module: its output gains s_k (x A_k) B_k."""


class Linear(NamedTuple):
    """A linear module that carries adapters, by its name in the base."""

    name: str
    inputs: int
    outputs: int


def pack_targets(base: Any, lora: Lora) -> tuple[list[Linear], Any]:
    """`targets`, refused where a pack cannot tell whose the tokens are that a module sees (`check_whole_input`)."""
    linears, config = targets(base, lora)
    check_whole_input(base, [one.name for one in linears])
    return linears, config


def targets(base: Any, lora: Lora) -> tuple[list[Linear], Any]:
    """The modules on which PEFT puts adapters, in its order, and its `LoraConfig`. InputError for one not linear."""
    model = attach_smallest(base, lora)
    names = {module: name.removeprefix("base_model.model.") for name, module in model.named_modules()}
    layers = {names[layer]: layer.get_base_layer() for layer in lora_layers(model)}
    config = model.peft_config["default"]
    config.inference_mode = True
    detach_adapter(model)
    for name, layer in layers.items():
        if not isinstance(layer, torch.nn.Linear):
            raise InputError(
                f"lora.target_modules: {name} is a {type(layer).__name__}, and a pack adapts linear modules only",
                "set resources.trials_per_gpu: 1, or name linear modules",
            )
    return [Linear(name, layer.in_features, layer.out_features) for name, layer in layers.items()], config


class Layout:
    """Where in a row of P numbers the A and B of each module are. Ranks below R are padded with zeros, which stay
    zero: a zero column of A and the zero row of B that meets it have zero gradients."""

    def __init__(self, linears: Sequence[Linear], rank: int) -> None:
        self.linears, self.rank = tuple(linears), rank
        self.size = sum((one.inputs + one.outputs) * rank for one in linears)

    def pairs(self, rows: Tensor) -> list[Pair]:
        """Views of rows [K, P], in the order of the modules."""
        found, begin, count = [], 0, len(rows)
        for one in self.linears:
            middle, end = begin + one.inputs * self.rank, begin + (one.inputs + one.outputs) * self.rank
            a = rows[:, begin:middle].view(count, one.inputs, self.rank)
            b = rows[:, middle:end].view(count, self.rank, one.outputs)
            found.append((a, b))
            begin = end
        return found

    def matrices(self, row: Tensor, rank: int) -> list[Tensor]:
        """Views of a vector [P]: each module's A [r, d] and B [o, r] as PEFT has them, without the padding."""
        return [m for a, b in self.pairs(row.unsqueeze(0)) for m in (a[0, :, :rank].T, b[0, :rank].T)]

    def initial(self, rank: int, seed: int, b_std: float = 0.0) -> Tensor:
        """The row [P] of a fresh adapter: the very A that PEFT draws from this seed (`attach_lora`), and B = 0 or, with
        b_std, `fresh_b`.

        PEFT makes two `nn.Linear` per module, which draw their own weights, and then draws A anew.
        """
        row = torch.zeros(1, self.size)
        generator = torch.Generator().manual_seed(seed)
        for one, (a, _) in zip(self.linears, self.pairs(row), strict=True):
            for shape in ((rank, one.inputs), (one.outputs, rank), (rank, one.inputs)):
                drawn = torch.empty(shape)
                torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            a[0, :, :rank] = drawn.T
        if b_std:
            shapes = [(one.outputs, rank) for one in self.linears]
            for (_, b), drawn in zip(self.pairs(row), fresh_b(shapes, b_std, seed), strict=True):
                b[0, :rank] = drawn.T
        return row[0]

    def adapter(self, row: Tensor, rank: int) -> dict[str, Pair]:
        """By module: A [r, d] and B [o, r] as PEFT has them, without the padding."""
        matrices = [m.contiguous() for m in self.matrices(row, rank)]
        return {one.name: (a, b) for one, a, b in zip(self.linears, matrices[::2], matrices[1::2], strict=True)}


class Leaves(NamedTuple):
    """The adapters of one forward as leaves of its graph: pairs [G, ...] by module; slots [G], None for all in turn."""

    slots: Tensor | None
    pairs: Sequence[Pair]


class Parameters:
    """values and gradient, both [K, P] float32."""

    def __init__(self, layout: Layout, slots: int, device: torch.device) -> None:
        self.layout = layout
        self.values = torch.zeros(slots, layout.size, device=device)
        self.gradient = torch.zeros_like(self.values)
        self._whole = self._leaves(None, self.values)

    def leaves(self, slots: Sequence[int]) -> Leaves:
        """Of a forward whose lanes are these slots: views of the values where they are all in turn, else copies."""
        if list(slots) == list(range(len(self.values))):
            return self._whole
        index = torch.tensor(slots, device=self.values.device)
        return self._leaves(index, self.values[index])

    def _leaves(self, slots: Tensor | None, rows: Tensor) -> Leaves:
        # Each pair a leaf of its own: as slices of one, they would bring back a gradient of all rows each.
        return Leaves(slots, [(_leaf(a), _leaf(b)) for a, b in self.layout.pairs(rows)])

    def row(self, slot: int) -> Tensor:
        """The parameters [P] of one slot as a tensor that an optimiser steps; its gradient is the slot's."""
        row = _leaf(self.values[slot])
        row.grad = self.gradient[slot]
        return row

    def add_gradient(self, losses: Sequence[Tensor], used: Sequence[Leaves], held: Sequence[Tensor] = ()) -> None:
        """Add the gradient of the sum of these losses, which `used` are the leaves of: each slot has the gradient that
        it would have alone. held: other leaves of it; their gradients are added to their `.grad`."""
        forwards = list({id(one): one for one in used}.values())  # all slots in turn have one for all forwards
        leaves = [leaf for one in forwards for pair in one.pairs for leaf in pair]
        # Not through .grad: torch warns of one that is no contiguous tensor of its own.
        found = iter(torch.autograd.grad(losses, [*held, *leaves], allow_unused=True))
        for leaf in held:
            gradient = next(found)
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        views = [view for pair in self.layout.pairs(self.gradient) for view in pair]
        for one in forwards:
            for view in views:
                gradient = next(found)
                if gradient is None:  # rmu stops at a middle layer
                    continue
                if one.slots is None:
                    view += gradient
                else:
                    view.index_add_(0, one.slots, gradient)

    def clear(self, slot: int) -> None:
        """An empty slot: it computes the base. (Filled, not multiplied: NaN * 0 is NaN.)"""
        self.values[slot].zero_()


def _leaf(view: Tensor) -> Tensor:
    return view.detach().requires_grad_()
