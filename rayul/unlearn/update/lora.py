"""`update: lora`: a low-rank adapter (arXiv 2106.09685) on the frozen base, by PEFT; saved as a PEFT folder.

The reference is the base with the adapter disabled, and mixing scales the adapter, so nothing is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rayul import spec as specs
from rayul.errors import InputError
from rayul.files import whole_folder
from rayul.unlearn.task import Task
from rayul.unlearn.update.contract import Update
from rayul.unlearn.update.modules import check_outputs
from rayul.unlearn.update.saved import detach_adapter
from rayul.words import first_line

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def attach(task: Task, spec: specs.Spec, seed: int) -> Update:
    model = attach_lora(task.base, spec.lora, seed)
    b_std = spec.method.of(spec.method.name).b_std
    if b_std:
        pairs = [layer.lora_B[name].weight for layer in lora_layers(model) for name in layer.active_adapters]
        with torch.no_grad():
            for b, drawn in zip(pairs, fresh_b([tuple(b.shape) for b in pairs], b_std, seed), strict=True):
                b.copy_(drawn)
    return LoraUpdate(model)


class LoraUpdate:
    """model: of `attach_lora`."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    @contextmanager
    def reference(self) -> Iterator[Any]:
        with self.model.disable_adapter():
            yield self.model

    def mixed(self, a: float) -> AbstractContextManager[None]:
        from peft.helpers import rescale_adapter_scale

        context: AbstractContextManager[None] = rescale_adapter_scale(self.model, a)
        return context

    def project_into_ball(self, radius: float, norm: str) -> None:
        """Of W = scale * B A. In the elementwise norm, too, the pair is scaled: clipping single elements would leave
        the low-rank set. Both factors shrink by the same square root."""
        for layer in lora_layers(self.model):
            for name in layer.active_adapters:
                project_pair(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], radius, norm)

    @contextmanager
    def unadapted(self) -> Iterator[tuple[Any, Mapping[Any, Tensor]]]:
        added = {}
        for layer in lora_layers(self.model):
            (name,) = layer.active_adapters
            added[layer.get_base_layer()] = layer.get_delta_weight(name).detach()
        with self.model.disable_adapter():
            yield self.model, added

    def save(self, mixing: float, folder: Path) -> None:
        # Into B, since `lora_alpha` is an integer and cannot carry it.
        state = {k: v * mixing if "lora_B" in k else v for k, v in self.model.state_dict().items() if "lora_" in k}
        with whole_folder(folder) as temporary:
            self.model.save_pretrained(str(temporary), state_dict=state)

    def detach(self) -> None:
        detach_adapter(self.model)


def attach_lora(base: Any, lora: specs.Lora, seed: int) -> PeftModel:
    """A fresh adapter on the base (B = 0, so the model is unchanged until the first step), in float32 whatever the
    base's dtype is. `seed` fixes the initial A and the dropout."""
    from peft import LoraConfig, TaskType, get_peft_model

    torch.manual_seed(seed)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if lora.layers is not None:
        blocks = base.config.num_hidden_layers
        if max(lora.layers) > blocks:
            raise InputError(f"lora.layers: {max(lora.layers)}: the model has {blocks} blocks", "counted from 1")
        if targets == "all-linear":  # which PEFT does not take together with layers
            linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
            targets = sorted({name.rsplit(".", 1)[-1] for name in linear if re.search(r"\.\d+\.", name)})
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=_fixed(lora.r),
        lora_alpha=_fixed(lora.alpha),
        lora_dropout=_fixed(lora.dropout),
        target_modules=targets,
        layers_to_transform=None if lora.layers is None else [n - 1 for n in lora.layers],
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        raise InputError(
            f"lora.target_modules: {targets!r}: {first_line(error)}", _linear_modules(base, error)
        ) from error
    problem = _untargeted(model, [] if isinstance(targets, str) else targets)
    if problem is not None:
        raise InputError(f"lora.target_modules: {problem}", _linear_modules(detach_adapter(model)))
    try:
        check_outputs(model)
    except InputError:
        detach_adapter(model)
        raise
    return model


def fresh_b(shapes: Iterable[tuple[int, int]], std: float, seed: int) -> Iterator[Tensor]:
    """The B [o, r] of each module for a method that does not start at B = 0 (`Method.b_std`): normal, of mean 0."""
    generator = torch.Generator().manual_seed(seed)
    for shape in shapes:
        yield std * torch.randn(shape, generator=generator)


def check_targets(base: Any, lora: specs.Lora) -> None:
    """Raises InputError where adapters cannot be put on `lora.target_modules`. The base stays as it was."""
    detach_adapter(attach_smallest(base, lora))


def attach_smallest(base: Any, lora: specs.Lora) -> PeftModel:
    """An adapter of rank 1 on the modules of the spec, whatever it searches."""
    return attach_lora(base, lora.model_copy(update={"r": 1, "alpha": 1, "dropout": 0.0}), seed=0)


def _untargeted(model: PeftModel, targets: Sequence[str]) -> str | None:
    """What PEFT leaves out without a word, or adapts in a way that nothing here knows; None where all is well."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name: m for name, m in model.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)}
    for name, module in adapted.items():
        if isinstance(module.get_base_layer(), torch.nn.Embedding):
            return f"{name} is an embedding; adapt linear modules"
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in adapted):
            return f"no module is named {target!r}"
    return None


def _linear_modules(base: Any, refused: Exception | None = None) -> str:
    """What can be named in lora.target_modules, without the modules that an error of PEFT names in quotes: it refuses
    out_proj of Mamba, which "all-linear" holds."""
    linear = [name for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and ".lora_" not in name]
    # Where PEFT gave up half-way, some have an adapter around them.
    names = {name.removesuffix(".base_layer").rsplit(".", 1)[-1] for name in linear}
    barred = {name for name in names if f"'{name}'" in str(refused)}
    listed = ", ".join(sorted(names - barred))
    return f"linear modules of this model: {listed}" + ("" if barred else '; or "all-linear"')


def write_adapter(pairs: Mapping[str, tuple[Tensor, Tensor]], config: LoraConfig, mixing: float, folder: Path) -> None:
    """`LoraUpdate.save` of weights that are on no PEFT model: A [r, d] and B [o, r] by the name of their module."""
    state = {}
    for name, (a, b) in pairs.items():
        state[f"base_model.model.{name}.lora_A.weight"] = a
        state[f"base_model.model.{name}.lora_B.weight"] = b * mixing
    with whole_folder(folder) as temporary:
        config.save_pretrained(temporary)
        save_file(state, temporary / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def project_pair(a: Tensor, b: Tensor, scale: float, radius: float, norm: str) -> None:
    """`LoraUpdate.project_into_ball` of one pair, in place: A [r, d], B [o, r]."""
    if norm == "frobenius":
        # ||B A||_F^2 = trace((B^T B)(A A^T)): r x r products, W itself is never formed.
        size = scale * ((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()
    else:
        size = scale * (b @ a).abs().max()
    if size > radius:
        shrink = (radius / size).sqrt()
        a.mul_(shrink)
        b.mul_(shrink)


def lora_layers(model: Any) -> list[Any]:
    """The PEFT layers of a model that carry a LoRA pair."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _fixed(value: Any) -> Any:
    if isinstance(value, specs.Float | specs.Int | specs.Choice):
        raise TypeError(f"{value} is a search distribution; call spec.at(params) first")
    return value
