"""Which modules of a model get an adapter, which weights do not, and whether the adapters can work at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from rayul.errors import InputError


class Modules(NamedTuple):
    """Modules, or weights, of one name in all blocks. number: of them. parameters: of their adapters together, or of
    the weights themselves where they have none. routed: whether they are the experts of a mixture in one tensor."""

    name: str
    number: int
    parameters: int
    routed: bool = False


def adapted_modules(model: Any) -> list[Modules]:
    """The modules of a PEFT model that carry a LoRA pair, by the last part of their names; experts in one tensor by the
    name of that tensor, too."""
    found = []
    for name, layer in _adapted(model).items():
        inside = getattr(layer, "parameter_name", None)
        owner = name.replace(".base_layer", "").rsplit(".", 1)[-1]
        pair = (*layer.lora_A.parameters(), *layer.lora_B.parameters())
        found.append((f"{owner}.{inside}" if inside else owner, sum(p.numel() for p in pair), False))
    return _grouped(found)


def untouched_weights(model: Any) -> list[Modules]:
    """The weight matrices of a PEFT model without an adapter, by the last parts of their names."""
    found = []
    for name, weight in model.get_base_model().named_parameters():
        if weight.ndim > 1 and "lora_" not in name and ".base_layer." not in name:
            owner, last = ["", *name.split(".")][-2:]
            routed = weight.ndim == 3 and "expert" in name
            found.append((owner if last == "weight" else f"{owner}.{last}", weight.numel(), routed))
    return _grouped(found)


@torch.no_grad()
def check_outputs(model: Any) -> None:
    """Raises InputError for an adapted module that is linear by its class, but returns no tensor that an adapter could
    add to: the routers of some mixtures of experts. Runs two tokens where such a module may be."""
    from peft.tuners.lora import Linear

    special = {
        name: layer.get_base_layer()
        for name, layer in _adapted(model).items()
        if isinstance(layer, Linear) and type(layer.get_base_layer()).forward is not torch.nn.Linear.forward
    }
    if not special:
        return
    found: dict[str, Any] = {}

    def note(name: str) -> Any:
        return lambda module, arguments, output: found.update({name: output})

    hooks = [module.register_forward_hook(note(name)) for name, module in special.items()]
    base = model.get_base_model()
    device = base.get_input_embeddings().weight.device
    try:
        with model.disable_adapter():
            base(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    broken = sorted({n.rsplit(".", 1)[-1] for n, output in found.items() if not isinstance(output, torch.Tensor)})
    if broken:
        names = [one.name for one in adapted_modules(model) if one.name not in broken]
        raise InputError(
            f"lora.target_modules: {', '.join(broken)} returns more than a tensor (the router of a mixture of "
            "experts?), and no adapter can be added to it",
            f"name the others: [{', '.join(names)}]",
        )


def _adapted(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}


def _grouped(found: Iterable[tuple[str, int, bool]]) -> list[Modules]:
    groups: dict[str, Modules] = {}
    for name, parameters, routed in found:
        before = groups.get(name, Modules(name, 0, 0))
        groups[name] = Modules(name, before.number + 1, before.parameters + parameters, routed)
    return list(groups.values())
