"""One trial in a pack: what of it is its own. Its rows, its loss, its optimiser, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from rayul.errors import RayulError
from rayul.records import Ending, Evaluation
from rayul.spec import Spec, is_custom
from rayul.unlearn.controls import controlled
from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.job import TrialJob
from rayul.unlearn.losses import Side, loss_of
from rayul.unlearn.pack.parameters import Pair
from rayul.unlearn.pack.reference import Reference
from rayul.unlearn.pack.state import SlotState
from rayul.unlearn.task import Task
from rayul.unlearn.train import (
    Diverged,
    evaluation_steps,
    hidden_layer,
    learning_rate,
    loss_keywords,
    micro_batches,
    needs,
    row_order,
    steering_direction,
)
from rayul.unlearn.update.lora import project_pair

Part = dict[str, list[int]]
"""Rows of one micro-batch by set: "forget", "retain_train", "idk" (one refusal for each forget row)."""


class Slot:
    """shared: what all its rows of the record share. row: its parameters [P] with their gradient. size: rows of a part
    where the loss can be taken apart; None: the trial's own micro-batch. seconds: its share of the device's time so
    far. ending: how it ended; it takes no further step then."""

    def __init__(self, task: Task, job: TrialJob, shared: Evaluation, row: Tensor, size: int | None) -> None:
        self.job, self.shared, self.row, self.size = job, shared, row, size
        self.spec = spec = job.spec
        training = spec.training
        # One flat tensor, so torch's fused kernel makes one pass over a row that fits the cache.
        self.optimizer = torch.optim.AdamW([row], lr=training.lr, weight_decay=training.weight_decay, fused=True)
        self.stops = frozenset(evaluation_steps(training.steps, training.evaluate_every))
        self.order = row_order(task, spec, job.seed)
        self.sets = _sets_read(spec)
        self.direction = steering_direction(task, spec, job.seed)
        self.layer = hidden_layer(task.base.config, spec) if needs(spec, "hidden") else None
        self.scale = spec.lora.alpha / spec.lora.r
        self.pending: list[Part] = []
        """Parts of the step under way that are still to come; `losses` of those that were."""
        self.losses: list[Tensor] = []
        self.count = self.total = 0
        self.step = 0
        self.reported = -1
        self.seconds = 0.0
        self.ending: Ending | None = None

    @property
    def ended(self) -> bool:
        return self.ending is not None

    def state(self) -> SlotState:
        adam: dict[str, Tensor] = self.optimizer.state.get(self.row, {})
        mean, square = (adam[key].clone() if key in adam else None for key in ("exp_avg", "exp_avg_sq"))
        return SlotState(self.step, self.reported, self.seconds, self.row.detach().clone(), mean, square)

    def resume(self, state: SlotState) -> None:
        """Go on from a state."""
        self.step, self.reported, self.seconds = state.step, state.reported, state.seconds
        self.row.detach().copy_(state.values)
        if state.mean is not None and state.square is not None:
            self.optimizer.state[self.row] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": state.mean.to(self.row.device, copy=True),
                "exp_avg_sq": state.square.to(self.row.device, copy=True),
            }
        next(islice(self.order, state.step, state.step), None)

    @property
    def due(self) -> bool:
        return not self.ended and self.step in self.stops and self.step != self.reported

    def next_part(self) -> Part:
        """Rows of the next forward, of the sets that the loss reads; the first part of a step clears the gradient."""
        if not self.pending:
            self.pending, self.losses, self.count = self._parts(), [], 0
            self.total = sum(_size(part) for part in self.pending)
            assert self.row.grad is not None
            self.row.grad.zero_()
        self.count += 1
        return self.pending.pop(0)

    def _parts(self) -> list[Part]:
        forget, retain = next(self.order)
        size = self.spec.training.micro_batch_size
        if self.size is not None and is_mean_of_rows(self.spec):
            small = min(size or self.size, self.size)
            count = len(micro_batches(forget, retain, small))
            size = small if len(forget) % count == len(retain) % count == 0 else size
        parts = []
        for f, r in micro_batches(forget, retain, size):
            rows = {"forget": list(f), "retain_train": list(r), "idk": list(f)}
            parts.append({name: rows[name] for name in rows if name in self.sets})
        return parts

    def dropout_generator(self, device: torch.device, lane: int) -> torch.Generator | None:
        """The noise of a lane of this part of the step, from seed, step, part and lane alone (PEFT draws another stream
        from the global one)."""
        if self.spec.lora.dropout == 0:
            return None
        seed = np.random.SeedSequence([self.job.seed, self.step + 1, self.count, lane]).generate_state(1)[0]
        return torch.Generator(device).manual_seed(int(seed))

    def loss(self, part: Part, answers: Mapping[str, Answers], reference: Reference) -> Tensor:
        """The method's loss on one part, weighted by its share of the forget rows of the step."""
        control, device = self.spec.control, self.row.device

        def side(name: str) -> Side | None:
            if name not in part:
                return None
            limited = name == "forget"
            temperature = control.temperature if limited else 1.0

            def plain() -> Answers:
                return controlled(answers[name], control) if limited else answers[name]

            def base() -> Answers:
                layers = () if self.layer is None else (self.layer,)
                found = reference.predictions(name, on_device(part[name], device), layers)
                hidden = None if self.layer is None else found.hidden[self.layer]
                return answers[name].with_logits(found.logits / temperature)._replace(hidden=hidden)

            def base_logp(mask: Tensor) -> Tensor:
                # what is kept is at temperature 1
                known = temperature == 1.0
                logp = reference.logp(name, on_device(part[name], device)) if known else token_logp(base())
                return torch.where(mask, logp, 0.0)

            return Side(plain, base, base_logp, self.direction if limited else None)

        forget = side("forget") or Side(_unread, _unread, lambda mask: mask)
        loss = loss_of(self.spec.method)(forget, side("retain_train"), side("idk"), **loss_keywords(self.spec))
        if not loss.requires_grad:
            raise RayulError(f"the loss of {self.spec.method.name} does not depend on the adapter")
        loss = loss * (_size(part) / self.total)
        self.losses.append(loss.detach())
        return loss

    def update(self, pairs: Callable[[], Sequence[Pair]], loss: float, norm: float) -> None:
        """One optimiser step with the gradient as it is; raises Diverged, and changes nothing, for what is no number.
        pairs: gives the slot's own A [1, d, R] and B [1, R, o]; there are hundreds, which few trials ask for."""
        step = self.step + 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}", "lower training.lr")
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.spec, step)
        self.optimizer.step()
        if self.spec.control.ball is not None:
            for a, b in pairs():
                project_pair(a[0].T, b[0].T, self.scale, self.spec.control.ball, self.spec.control.ball_norm)
        self.step = step


def on_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """As a tensor [n]. A GPU is not waited for: it has work in hand while the next is put together."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def _size(part: Part) -> int:
    """Forget rows of a part."""
    return len(part.get("forget") or part["idk"])


def is_mean_of_rows(spec: Spec) -> bool:
    """Whether the loss is a mean over the rows of its batch, so that parts of one size add up to the whole. A cap may
    take whole rows out of it; of a custom loss or control nothing is known."""
    caps = (spec.control.loss_cap, spec.control.token_cap)
    return all(cap is None for cap in caps) and not (spec.control.own or is_custom(spec.method.name))


def _unread() -> Answers:
    raise AssertionError("the loss reads a set that it did not read in its example")


def _sets_read(spec: Spec) -> frozenset[str]:
    """The sets whose predictions the loss asks for (with retain_weight 0 no retain rows, in po no forget rows): it is
    called once on an example of one token."""
    read: set[str] = set()
    one = torch.ones(1, 1, dtype=torch.bool)
    example = Answers(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), one, torch.zeros(1, 1, 1))

    def side(name: str) -> Side:
        def answers() -> Answers:
            read.add(name)
            return example

        return Side(answers, lambda: example, lambda mask: torch.zeros(1, 1), torch.zeros(1))

    loss_of(spec.method)(side("forget"), side("retain_train"), side("idk"), **loss_keywords(spec))
    return frozenset(read)
