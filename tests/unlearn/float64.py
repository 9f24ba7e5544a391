"""Unlearning written out again, row by row in float64, on weights W + scale B A put together by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.train import train
from rayul.unlearn.update.lora import LoraUpdate, attach_lora

SHAPES = [Shape(slots=3, rank=8, rows=2), Shape(slots=3, rank=8, rows=2, group=2)]
SEED = 3


class Reference:
    """theta: by module its A [r, d] and B [o, r], float64, requiring gradients."""

    def __init__(self, task: Any, spec: Any) -> None:
        self.task, self.scale = task, spec.lora.alpha / spec.lora.r
        self.base = copy.deepcopy(task.base).double()
        self.theta = {k: v.double().requires_grad_() for k, v in start(task, spec).items()}

    @property
    def leaves(self) -> list[Tensor]:
        return list(self.theta.values())

    def forward(self, row: Any, adapted: bool = True, theta: Sequence[Tensor] | None = None) -> Any:
        names, values = list(self.theta), self.leaves if theta is None else theta
        pairs = dict(zip(names, values, strict=True))
        state = dict(self.base.named_parameters())
        weights = {}
        for name in names if adapted else ():
            if name.endswith("lora_A.default.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
                change = pairs[name.replace("lora_A", "lora_B")] @ pairs[name]
                weights[f"{module}.weight"] = state[f"{module}.weight"].detach() + self.scale * change
        keywords = {"input_ids": torch.tensor([row.ids]), "output_hidden_states": True}
        return functional_call(self.base, weights, kwargs=keywords)

    def hidden(self, row: Any, adapted: bool = True) -> Sequence[Tensor]:
        """[1, T, D] by the number of blocks before it."""
        found: Sequence[Tensor] = self.forward(row, adapted).hidden_states
        return found if adapted else [h.detach() for h in found]

    def logp(self, row: Any, **how: Any) -> Tensor:
        """[L, V] of the answer's tokens."""
        found: Tensor = self.forward(row, **how).logits[0, row.start - 1 : row.stop - 1].log_softmax(-1)
        return found

    def nll(self, name: str, rows: Sequence[int], **how: Any) -> Tensor:
        each = []
        for i in rows:
            row = self.task.training[name][i]
            labels = row.ids[row.start : row.stop]
            each.append(-self.logp(row, **how)[range(len(labels)), labels].mean())
        return torch.stack(each).mean()


def start(task: Any, spec: Any) -> dict[str, Tensor]:
    """A LoRA that has left its start already: with B = 0 half of all gradients would be 0."""
    model = attach_lora(task.base, spec.lora, SEED)
    noise = torch.Generator().manual_seed(SEED)
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.05, generator=noise)
            found[name] = p.detach().clone()
    LoraUpdate(model).detach()
    return found


def alone(task: Any, spec: Any, watch: Callable[[Any], None] = lambda update: None) -> dict[str, Tensor]:
    """The weights after training alone from `start`. watch: sees the update at each evaluation."""
    begin = start(task, spec)
    model = attach_lora(task.base, spec.lora, SEED)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(begin[name])
    update = LoraUpdate(model)
    for _ in train(update, task, spec, SEED):
        watch(update)
    found = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    update.detach()
    return found


def packed(task: Any, spec: Any, shape: Shape) -> dict[str, Tensor]:
    """The same in a pack, beside a trial of another kind."""
    pack = Pack(task, spec, shape)
    other = spec.model_copy(update={"method": type(spec.method).parse("npo")})
    pack.join(TrialJob("1", other, 9, {}, {}))
    k = pack.join(TrialJob("0", spec, SEED, {}, {}))
    begin = start(task, spec)
    for one, (a, b) in zip(pack.layout.linears, pack.layout.pairs(pack.slots[k].row.detach()[None]), strict=True):
        prefix = f"base_model.model.{one.name}.lora_"
        a[0, :, : spec.lora.r] = begin[f"{prefix}A.default.weight"].T
        b[0, : spec.lora.r] = begin[f"{prefix}B.default.weight"].T
    while not pack.slots[k].ended:
        pack.turn()
    ending = pack.slots[k].ending
    assert ending is not None
    assert ending.state == "completed", ending
    found = {}
    for name, (a, b) in pack.layout.adapter(pack.slots[k].row.detach(), spec.lora.r).items():
        found[f"base_model.model.{name}.lora_A.default.weight"] = a
        found[f"base_model.model.{name}.lora_B.default.weight"] = b
    return found


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor], step: float) -> None:
    """Weights after a few steps of about this size each. A gradient that is 0 but for rounding has a random sign, which
    AdamW makes a step of, so one weight in a thousand may be elsewhere."""
    assert ours.keys() == theirs.keys()
    apart = torch.cat([(ours[k].double() - theirs[k].detach()).abs().flatten() for k in ours])
    assert (apart < step / 100).double().mean() > 0.999
