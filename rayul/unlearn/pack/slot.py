"""One trial in a pack: what of it is its own. Its rows, its loss, its optimiser, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from rayul.errors import RayulError
from rayul.records import Ending, Evaluation
from rayul.spec import Spec, is_custom
from rayul.unlearn.cadence import Watch, evaluation_steps
from rayul.unlearn.controls import controlled
from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.gradients import Memory, rule_of
from rayul.unlearn.gradients.contract import FORGET_NLL, RETAIN_NLL
from rayul.unlearn.gradients.hidden import Room, latent_layers
from rayul.unlearn.job import TrialJob
from rayul.unlearn.losses import Side, terms_of
from rayul.unlearn.optimisers import RowOptimiser, learning_rate
from rayul.unlearn.order import row_order
from rayul.unlearn.pack.parameters import Layout, Pair
from rayul.unlearn.pack.reference import Reference
from rayul.unlearn.pack.state import SlotState
from rayul.unlearn.pack.step import Part, Step
from rayul.unlearn.task import Task
from rayul.unlearn.terms import total
from rayul.unlearn.train import (
    Diverged,
    hidden_layers,
    micro_batches,
    steering_direction,
)
from rayul.unlearn.update.lora import project_pair

RULE = "rule."
"""In the names of what a gradient rule keeps."""


class Slot:
    """shared: what all its rows of the record share. row: its parameters [P] with their gradient, as the layout has
    them. size: rows of a part where the loss can be taken apart; None: the trial's own micro-batch. seconds: its share
    of the device's time so far. ending: how it ended; it takes no further step then."""

    def __init__(
        self, task: Task, job: TrialJob, shared: Evaluation, layout: Layout, row: Tensor, size: int | None
    ) -> None:
        self.task, self.job, self.shared, self.row, self.size = task, job, shared, row, size
        self.spec = spec = job.spec
        training = spec.training
        self.optimiser = RowOptimiser(training, row, partial(layout.matrices, rank=spec.lora.r))
        self.stops = frozenset(evaluation_steps(spec))
        self.watch = Watch(spec)
        self.order = row_order(task, spec, job.seed)
        self.memory: Memory = {}
        self.terms: dict[str, float] = {}
        """Of the loss at the last step, by name, and what else the gradient rule read."""
        self.direction = steering_direction(task, spec, job.seed)
        self.layers = hidden_layers(task.base.config, spec)
        if "latent" in spec.method.gradients:  # here, what is wrong with it ends this trial alone
            latent_layers(task.base, spec)
        self.scale = spec.lora.alpha / spec.lora.r
        self._step: Step | None = None
        self._read: dict[str, frozenset[str]] = {}
        self.step = 0
        self.reported = -1
        self.seconds = 0.0
        self.ending: Ending | None = None

    @property
    def ended(self) -> bool:
        return self.ending is not None

    def state(self) -> SlotState:
        kept = self.optimiser.kept | {f"{RULE}{key}": tensor for key, tensor in self.memory.items()}
        values, watch = self.row.detach().clone(), self.watch.state()
        return SlotState(self.step, self.reported, self.seconds, self.terms, values, kept, watch)

    def resume(self, state: SlotState) -> None:
        """Go on from a state."""
        self.step, self.reported, self.seconds = state.step, state.reported, state.seconds
        self.terms = dict(state.terms)
        self.watch.resume(state.watch)
        self.row.detach().copy_(state.values)
        memory = {key.removeprefix(RULE): t for key, t in state.kept.items() if key.startswith(RULE)}
        self.memory = {key: tensor.to(self.row.device, copy=True) for key, tensor in memory.items()}
        self.optimiser.restore(state.step, state.kept)
        next(islice(self.order, state.step, state.step), None)

    @property
    def due(self) -> bool:
        return not self.ended and self.step in self.stops and self.step != self.reported

    @property
    def under_way(self) -> Step:
        """The step whose first part was handed out, until its `update`."""
        assert self._step is not None
        return self._step

    def next_part(self) -> Part:
        """Rows of the next forward; the first of a step draws the step's rows."""
        if self._step is None:
            forget, retain = next(self.order)
            memory = dict(self.memory)
            rule = rule_of(self.spec.method, self.row.detach(), memory, self.step + 1)
            room = partial(Room.of, self.task, self.spec, forget)
            self._step = Step(self.row, rule, memory, partial(self._parts, forget, retain), room)
        return self._step.next_part()

    def _parts(self, forget: list[int], retain: list[int], of: str) -> list[Part]:
        """The micro-batches of these rows for a gradient of this (`rayul/unlearn/gradients/contract.py`)."""
        sets = self._sets_read(of)
        size = self.spec.training.micro_batch_size
        if self.size is not None and is_mean_of_rows(self.spec):
            small = min(size or self.size, self.size)
            count = len(micro_batches(forget, retain, small))
            size = small if len(forget) % count == len(retain) % count == 0 else size
        parts, begin = [], 0
        for f, r in micro_batches(forget, retain, size) if sets else ():
            rows = {"forget": list(f), "retain_train": list(r), "idk": list(f)}
            share = len(r) / len(retain) if of == RETAIN_NLL else len(f) / len(forget)
            parts.append(Part({name: rows[name] for name in rows if name in sets}, list(f), share, begin))
            begin += len(f)
        return parts

    def _sets_read(self, of: str) -> frozenset[str]:
        if of not in self._read:
            self._read[of] = sets_read(self.spec, of)
        return self._read[of]

    def dropout_generator(self, device: torch.device, lane: int) -> torch.Generator | None:
        """The noise of a lane of this part of the step, from seed, step, part and lane alone (PEFT draws another stream
        from the global one)."""
        if self.spec.lora.dropout == 0:
            return None
        entropy = [self.job.seed, self.step + 1, self.under_way.count, lane]
        seed = np.random.SeedSequence(entropy).generate_state(1)[0]
        return torch.Generator(device).manual_seed(int(seed))

    def loss(self, part: Part, answers: Mapping[str, Answers], reference: Reference) -> Tensor:
        """What the step's rule asks for, on one part of the step, weighted by its share."""
        control, device, of = self.spec.control, self.row.device, self.under_way.ask.of
        progress = self.step / self.spec.training.steps

        def side(name: str) -> Side | None:
            if name not in part.rows:
                return None
            limited = name == "forget" and of != FORGET_NLL
            temperature = control.temperature if limited else 1.0

            def plain() -> Answers:
                own = answers[name]
                if self.watch.on:
                    logp = token_logp(own)
                    own = own._replace(logp=logp)
                    self.watch.note(logp, reference.logp(name, on_device(part.rows[name], device)), own.mask)
                return controlled(own, control) if limited else own

            def base() -> Answers:
                found = reference.predictions(name, on_device(part.rows[name], device), self.layers)
                hidden = torch.cat([found.hidden[layer] for layer in self.layers], -1) if self.layers else None
                plain = answers[name].with_logits(found.logits)._replace(hidden=hidden)
                return plain if temperature == 1.0 else plain.with_logits(plain.logits / temperature)

            def base_logp(mask: Tensor) -> Tensor:
                # what is kept is at temperature 1
                known = temperature == 1.0
                logp = reference.logp(name, on_device(part.rows[name], device)) if known else token_logp(base())
                return torch.where(mask, logp, 0.0)

            return Side(plain, base, base_logp, self.direction, progress=progress)

        def refusals() -> tuple[Tensor, Tensor]:
            lines = reference.sets["idk"].take(on_device(part.refused, device))
            return lines.labels, lines.mask

        forget = side("forget") or Side(_unread, _unread, lambda mask: mask)
        idk = side("idk") or Side(_unread, _unread, lambda mask: mask, tokens=refusals)
        terms = terms_of(self.spec.method, of, forget, side("retain_train"), idk)
        if not any(term.requires_grad for term in terms.values()):
            raise RayulError(f"the loss of {self.spec.method.name} does not depend on the adapter")
        terms = {name: term * part.share for name, term in terms.items()}
        self.under_way.add(terms)
        return total(terms)

    def update(self, pairs: Callable[[], Sequence[Pair]], terms: dict[str, float], norm: float) -> None:
        """One optimiser step with the gradient as it is; raises Diverged, and changes nothing, for what is no number.
        pairs: gives the slot's own A [1, d, R] and B [1, R, o]; there are hundreds, which few trials ask for."""
        step, loss = self.step + 1, sum(terms.values())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}", "lower training.lr")
        self.optimiser.step(learning_rate(self.spec.training, step))
        if self.spec.control.ball is not None:
            for a, b in pairs():
                project_pair(a[0].T, b[0].T, self.scale, self.spec.control.ball, self.spec.control.ball_norm)
        self.step, self.terms, self.memory, self._step = step, terms, self.under_way.memory, None


def on_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """As a tensor [n]. A GPU is not waited for: it has work in hand while the next is put together."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def is_mean_of_rows(spec: Spec) -> bool:
    """Whether the loss is a mean over the rows of its batch, so that parts of one size add up to the whole. A cap may
    take whole rows out of it, orth is on pairs of rows, and of a custom loss or control nothing is known."""
    if spec.control.own or is_custom(spec.method.name) or spec.method.parameters.get("orth_weight", 0) != 0:
        return False
    return spec.control.loss_cap is None and spec.control.token_cap is None


def _unread() -> Answers:
    raise AssertionError("the loss reads a set that it did not read in its example")


def sets_read(spec: Spec, of: str) -> frozenset[str]:
    """The sets whose predictions a gradient of this asks for (of the loss with retain_weight 0 no retain rows, of po no
    forget rows): it is computed once on an example of one token."""
    read: set[str] = set()
    one = torch.ones(1, 1, dtype=torch.bool)
    example = Answers(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), one, torch.zeros(1, 1, 1))

    def side(name: str) -> Side:
        def answers() -> Answers:
            read.add(name)
            return example

        tokens = example.labels, example.mask
        return Side(answers, lambda: example, lambda mask: torch.zeros(1, 1), torch.zeros(1), lambda: tokens)

    terms_of(spec.method, of, side("forget"), side("retain_train"), side("idk"))
    return frozenset(read)
