"""The frozen base as a pack calls it: K adapters on its linear modules, logits at answer positions only.

While it does, some of its modules have another `forward`; otherwise it is the base and nothing else, whoever calls it,
and PEFT can put an adapter on it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from rayul.errors import RayulError
from rayul.unlearn.compiled import call_block, compile_once, repeated_blocks
from rayul.unlearn.gradients.hidden import adding, blocks_of
from rayul.unlearn.pack.graphed import graphed
from rayul.unlearn.pack.lines import Lines
from rayul.unlearn.pack.parameters import Pair
from rayul.unlearn.products import adapted, frozen, is_plain
from rayul.unlearn.projection import Projection, projecting_head, same
from rayul.unlearn.run_as import run_as


class Adapters(NamedTuple):
    """K adapters: pairs by module, scale [K] (alpha / r, times the mixing).
    dropout maps an input [K, n, d] to what the adapters see of it."""

    pairs: Sequence[Pair]
    scale: Tensor
    dropout: Callable[[Tensor], Tensor] | None = None


class Predictions(NamedTuple):
    """logits [N, S, V] at the windows of N lines (a projection, of a large vocabulary); hidden [N, S, D] there by
    number of blocks, for those asked for."""

    logits: Tensor | Projection
    hidden: dict[int, Tensor]


class PackedBase:
    """`modules`: names of the linear modules that carry adapters, in the order of `Adapters.pairs`.
    compiled: whether the blocks of forwards with adapters, and their backwards, run as `torch.compile` makes them, once
    for every shape; forwards of the base itself, which come in all shapes, run as they are."""

    def __init__(self, base: Any, modules: Sequence[str], compiled: bool = False) -> None:
        self.base, self.modules, self.compiled = base, tuple(modules), compiled
        self._linears = [base.get_submodule(name) for name in modules]
        self._blocks = repeated_blocks(base) if compiled else []
        self._head = base.get_output_embeddings()
        # Before anything has another `forward`: what the model does behind its head is tried on it as it is.
        self._projecting = None if self._head in self._linears else projecting_head(base)
        self._graphs: dict[Hashable, Callable[..., Tensor]] = {}
        self._on_gpu = next(base.parameters()).is_cuda
        self._unmasked: set[Any] = set()
        """Blocks that get no attention mask: causal is enough."""
        if self._head is None:
            raise RayulError(f"{type(base).__name__} has no output embeddings", "run its trials alone")

    @property
    def token_bytes(self) -> int:
        """Of what `predict` returns as the logits of one token."""
        weight = self._head.weight
        return int(weight.element_size() * (len(weight) if self._projecting is None else weight.shape[1]))

    def merged(self, adapters: Adapters) -> dict[str, Tensor]:
        """The weights W + s (A B)^T of one adapter, by name in the base: the adapter for free in many forwards, at the
        cost of a copy of the weights."""
        weights = {}
        for name, linear, (a, b) in zip(self.modules, self._linears, adapters.pairs, strict=True):
            weights[f"{name}.weight"] = torch.addmm(linear.weight, b[0].T, a[0].T, alpha=float(adapters.scale))
        return weights

    def added(self, adapters: Adapters) -> dict[Any, Tensor]:
        """What one adapter adds to the weights of each linear module, s (A B)^T."""
        pairs = zip(self._linears, adapters.pairs, strict=True)
        return {linear: (float(adapters.scale) * (a[0] @ b[0]).T).detach() for linear, (a, b) in pairs}

    @contextmanager
    def adapted(self, adapters: Adapters) -> Iterator[Any]:
        """For the length of a block, the base with one adapter on it as a model like any other: for what is no forward
        of lines, such as generated answers."""
        with _run_as({linear: MethodType(_adapted, linear) for linear in self._linears}):
            for linear, (a, b) in zip(self._linears, adapters.pairs, strict=True):
                linear.adapter = (a, b, adapters.scale, None)
            yield self.base

    def predict(
        self,
        lines: Lines,
        adapters: Adapters | None = None,
        layers: Sequence[int] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Predictions:
        """One forward. Lines N = K * n follow each other slot by slot; without adapters, any N.
        weights: take the place of the base's own of these names."""
        return self._forward(lines.ids, lines.at, adapters, layers, weights, positions=lines.positions)

    def train(
        self,
        key: Hashable,
        lines: Lines,
        adapters: Adapters,
        layers: Sequence[int] = (),
        added: Mapping[int, Tensor] | None = None,
    ) -> Predictions:
        """`predict` with a backward to come, before the next call of this key. added: to hidden states, [N, T, D] by
        the number of blocks before them; not where it is compiled. Compiled on a GPU, it is captured as a
        CUDA graph when it is first called: lines of a key have one shape, and adapters are the same tensors."""
        if not (self.compiled and self._on_gpu):
            return self._forward(lines.ids, lines.at, adapters, layers, added=added or {}, positions=lines.positions)
        placed = () if lines.positions is None else (lines.positions,)
        tensors = (lines.ids, lines.at, *placed, adapters.scale, *chain.from_iterable(adapters.pairs))
        if key not in self._graphs:

            def logits(ids: Tensor, at: Tensor, *others: Tensor) -> Tensor:
                positions = others[0] if placed else None
                scale, *pairs = others[len(placed) :]
                adapters = Adapters(list(zip(pairs[::2], pairs[1::2], strict=True)), scale)
                found = self._forward(ids, at, adapters, whole=True, positions=positions).logits
                assert isinstance(found, Tensor)
                return found

            self._graphs[key] = graphed(logits, *tensors)
        return Predictions(self._graphs[key](*tensors), {})

    def _forward(
        self,
        ids: Tensor,
        at: Tensor,
        adapters: Adapters | None,
        layers: Sequence[int] = (),
        weights: Mapping[str, Tensor] | None = None,
        added: Mapping[int, Tensor] | None = None,
        whole: bool = False,
        positions: Tensor | None = None,
    ) -> Predictions:
        """whole: the logits of a large vocabulary, too, as a tensor. positions: as in `Lines`."""
        lines, window = at.shape
        offset = torch.arange(lines, device=ids.device).unsqueeze(1) * ids.shape[1]
        flat = (at + offset).flatten()
        forwards: dict[Any, Callable[..., Any]] = {linear: MethodType(_frozen, linear) for linear in self._linears}
        if adapters is not None or weights is not None:
            causal = positions is None
            forwards |= {block: partial(self._compiled, block, causal) for block in self._blocks}
        if adapters is not None:
            forwards |= {linear: MethodType(_adapted, linear) for linear in self._linears}
            for linear, (a, b) in zip(self._linears, adapters.pairs, strict=True):
                # An attribute and not an argument: compiled code reads it anew in every block.
                linear.adapter = (a, b, adapters.scale, adapters.dropout)
        for number, one in (added or {}).items():
            block = blocks_of(self.base)[number - 1]
            forwards[block] = adding(MethodType(type(block).forward, block), one)
        head = self._head  # which may have an adapter, too
        projecting = None if whole else self._projecting
        plain = MethodType(_frozen, head) if projecting is None else same
        forwards[head] = partial(_at_answers, forwards.get(head, plain), flat)
        with _run_as(forwards):
            inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False, "output_hidden_states": bool(layers)}
            if positions is not None:
                inputs["position_ids"] = positions
            # Not tied: an adapter on a head that shares its weights with the embedding changes the head alone.
            output = functional_call(self.base, dict(weights or {}), kwargs=inputs, tie_weights=False)
        hidden = {layer: _select(output.hidden_states[layer], flat) for layer in layers}
        found = output.logits.view(lines, window, -1)
        predicted = found if projecting is None else Projection(found, projecting)
        return Predictions(predicted, {k: h.view(lines, window, -1) for k, h in hidden.items()})

    def _compiled(self, block: Any, causal: bool, *arguments: Any, **keywords: Any) -> Any:
        """causal: whether a token may see all before it, and needs no other mask."""
        capturing = self._on_gpu and torch.cuda.is_current_stream_capturing()
        if not capturing and causal and keywords.get("attention_mask") is None:
            self._unmasked.add(block)
        elif capturing and causal and block in self._unmasked:
            # transformers writes the causal mask out while a graph is captured; attention is slower with one.
            keywords["attention_mask"] = None
        return compile_once(call_block)(block, *arguments, **keywords)


@contextmanager
def _run_as(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """`run_as`; the adapters that the modules were given are taken from them at the end."""
    try:
        with run_as(forwards):
            yield
    finally:
        for module in forwards:
            vars(module).pop("adapter", None)


def _adapted(linear: Any, x: Tensor) -> Tensor:
    """x W^T + s_k (x A_k) B_k."""
    a, b, scale, dropout = linear.adapter
    by_lane = x.reshape(len(a), -1, a.shape[1])
    if is_plain(linear):
        seen = None if dropout is None else dropout(by_lane)
        return adapted(by_lane, seen, linear.weight, linear.bias, a, b, scale).view(*x.shape[:-1], -1)
    output = type(linear).forward(linear, by_lane)
    if dropout is not None:
        by_lane = dropout(by_lane)
    low = torch.bmm(by_lane, a.to(x.dtype)) * scale.to(x.dtype).view(-1, 1, 1)
    # In place: no one else has seen this output, and a copy of it would cost a fifth of a product on a GPU.
    found: Tensor = output.baddbmm_(low, b.to(x.dtype)).view(*x.shape[:-1], -1)
    return found


def _frozen(linear: Any, x: Tensor) -> Tensor:
    return frozen(x, linear.weight, linear.bias) if is_plain(linear) else type(linear).forward(linear, x)


def _at_answers(head: Callable[[Tensor], Tensor], at: Tensor, hidden: Tensor) -> Tensor:
    return head(_select(hidden, at).unsqueeze(0))


def _select(hidden: Tensor, at: Tensor) -> Tensor:
    """Positions `at` [M] of the flattened [N, T, D], so [M, D]."""
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, at)
