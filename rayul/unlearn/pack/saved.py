"""Saved adapters as rows of one matrix, for forwards that they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayul.errors import InputError
from rayul.unlearn.pack.parameters import Layout, Linear
from rayul.unlearn.pack.whole_input import check_whole_input
from rayul.unlearn.update.lora import lora_layers
from rayul.unlearn.update.saved import detach_adapter, load_adapter


class Stacked(NamedTuple):
    """Adapters of any rank, on any linear modules: rows [M, P] of a layout for the largest rank and all modules. Each
    is at its scale 1, its alpha / r being part of B."""

    layout: Layout
    rows: Tensor


def stacked(base: Any, folders: Sequence[Path]) -> Stacked:
    """The adapters in these folders; the base is as it was afterwards.

    Raises InputError for an adapter that cannot be loaded, and one that packs cannot carry: on modules that are not
    linear or see only some of the tokens, or with more than a LoRA pair for each.
    """
    adapters = [_pairs(base, folder) for folder in folders]
    linears = list({one.name: one for adapter in adapters for one in adapter}.values())
    check_whole_input(base, [one.name for one in linears])
    layout = Layout(linears, max(len(a) for adapter in adapters for a, _ in adapter.values()))
    rows = torch.zeros(len(adapters), layout.size, device=base.device)
    for number, adapter in enumerate(adapters):
        for one, (a, b) in zip(linears, layout.pairs(rows[number : number + 1]), strict=True):
            if one in adapter:
                own_a, own_b = adapter[one]
                a[0, :, : len(own_a)] = own_a.T
                b[0, : len(own_a)] = own_b.T
    return Stacked(layout, rows)


def _pairs(base: Any, folder: Path) -> dict[Linear, tuple[Tensor, Tensor]]:
    """A [r, d] and alpha / r times B [o, r] of each module."""
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import Linear as LoraLinear

    model = load_adapter(base, folder)
    try:
        names = {module: name.removeprefix("base_model.model.") for name, module in model.named_modules()}
        more = [key for key in get_peft_model_state_dict(model) if not key.endswith(("lora_A.weight", "lora_B.weight"))]
        found = {}
        for layer in lora_layers(model):
            (adapter,) = layer.active_adapters
            plain = layer.get_base_layer()
            is_linear = isinstance(layer, LoraLinear) and isinstance(plain, torch.nn.Linear)
            if not is_linear or layer.lora_variant or more:
                raise InputError(
                    f"adapter {folder} has more than a LoRA pair on each of some linear modules: "
                    f"{more[0] if more else names[layer]}",
                    "set resources.packs: false",
                )
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            linear = Linear(names[layer], plain.in_features, plain.out_features)
            found[linear] = (a.detach().clone(), b.detach() * layer.scaling[adapter])
        return found
    finally:
        detach_adapter(model)
