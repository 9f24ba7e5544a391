"""The frozen base as a pack calls it: K adapters on its linear modules, logits at answer positions only.

Both are hooks on the base's own modules: its weights and modules stay what they are, so whoever calls the base outside
of `predict` gets the base, and PEFT can put an adapter on it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from rayul.errors import RayulError
from rayul.unlearn.pack.compiled import compiled_forward
from rayul.unlearn.pack.lines import Lines
from rayul.unlearn.pack.parameters import Pair


class Adapters(NamedTuple):
    """K adapters: pairs by module, scale [K] (alpha / r, times the mixing).
    dropout maps an input [K, n, d] to what the adapters see of it."""

    pairs: Sequence[Pair]
    scale: Tensor
    dropout: Callable[[Tensor], Tensor] | None = None


class Predictions(NamedTuple):
    """logits [N, S, V] at the windows of N lines; hidden [N, S, D] there by number of blocks, for those asked for."""

    logits: Tensor
    hidden: dict[int, Tensor]


class PackedBase:
    """`modules`: names of the linear modules that carry adapters, in the order of `Adapters.pairs`.
    compiled: whether forwards with adapters and their backwards run as `torch.compile` makes them, once for every
    shape; forwards of the base itself, which come in all shapes, run as they are."""

    def __init__(self, base: Any, modules: Sequence[str], compiled: bool = False) -> None:
        self.base, self.modules = base, tuple(modules)
        self._forward_compiled = compiled_forward(self._forward) if compiled else self._forward
        self._adapters: Adapters | None = None
        self._at: Tensor | None = None
        head = base.get_output_embeddings()
        if head is None:
            raise RayulError(f"{type(base).__name__} has no output embeddings", "run its trials alone")
        self._handles = [
            base.get_submodule(name).register_forward_hook(partial(self._adapt, i)) for i, name in enumerate(modules)
        ]
        self._handles.append(head.register_forward_pre_hook(self._answers_only))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def merged(self, adapters: Adapters) -> dict[str, Tensor]:
        """The weights W + s (A B)^T of one adapter, by name in the base: the adapter for free in many forwards, at the
        cost of a copy of the weights."""
        weights = {}
        for name, (a, b) in zip(self.modules, adapters.pairs, strict=True):
            weight = self.base.get_submodule(name).weight
            weights[f"{name}.weight"] = torch.addmm(weight, b[0].T, a[0].T, alpha=float(adapters.scale))
        return weights

    def predict(
        self,
        lines: Lines,
        adapters: Adapters | None = None,
        layers: Sequence[int] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Predictions:
        """One forward. Lines N = K * n follow each other slot by slot; without adapters, any N.
        weights: take the place of the base's own of these names."""
        forward = self._forward_compiled if adapters is not None or weights is not None else self._forward
        return forward(lines, adapters, tuple(layers), dict(weights or {}))

    def _forward(
        self, lines: Lines, adapters: Adapters | None, layers: Sequence[int], weights: dict[str, Tensor]
    ) -> Predictions:
        offset = torch.arange(len(lines.ids), device=lines.ids.device).unsqueeze(1) * lines.ids.shape[1]
        at = (lines.at + offset).flatten()
        self._adapters, self._at = adapters, at
        try:
            output = functional_call(
                self.base,
                weights,
                kwargs={"input_ids": lines.ids, "use_cache": False, "output_hidden_states": bool(layers)},
            )
        finally:
            self._adapters = self._at = None
        hidden = {layer: _select(output.hidden_states[layer], at) for layer in layers}
        return Predictions(
            output.logits.view(*lines.at.shape, -1), {k: h.view(*lines.at.shape, -1) for k, h in hidden.items()}
        )

    def _adapt(self, number: int, module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """x W^T + s_k (x A_k) B_k, where x W^T is already there."""
        if self._adapters is None:
            return None
        a, b = self._adapters.pairs[number]
        x = arguments[0].reshape(len(a), -1, a.shape[1])
        if self._adapters.dropout is not None:
            x = self._adapters.dropout(x)
        low = torch.bmm(x, a.to(x.dtype)) * self._adapters.scale.to(x.dtype).view(-1, 1, 1)
        return torch.baddbmm(output.view(len(a), -1, b.shape[2]), low, b.to(x.dtype)).view(output.shape)

    def _answers_only(self, module: Any, arguments: tuple[Tensor, ...]) -> Tensor | None:
        return None if self._at is None else _select(arguments[0], self._at).unsqueeze(0)


def _select(hidden: Tensor, at: Tensor) -> Tensor:
    """Positions `at` [M] of the flattened [N, T, D], so [M, D]."""
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, at)
