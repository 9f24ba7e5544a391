"""Many trials at once: join, train to the next evaluation, evaluate, leave."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rayul.errors import InputError, RayulError
from rayul.records import COMPLETED, Evaluation
from rayul.spec import Spec
from rayul.unlearn.forward import Answers, TokenScores
from rayul.unlearn.job import TrialJob
from rayul.unlearn.label_logp import label_logp
from rayul.unlearn.pack.base import Adapters, PackedBase
from rayul.unlearn.pack.dropout import Noise
from rayul.unlearn.pack.evaluator import Evaluator, SetNames
from rayul.unlearn.pack.lanes import Lane, forwards
from rayul.unlearn.pack.lines import filled, lines
from rayul.unlearn.pack.packable import Shape, packable
from rayul.unlearn.pack.parameters import Layout, Leaves, Parameters, pack_targets
from rayul.unlearn.pack.reference import Reference
from rayul.unlearn.pack.slot import Slot, on_device
from rayul.unlearn.pack.state import SlotState
from rayul.unlearn.pack.step import Part
from rayul.unlearn.pack.widths import widths
from rayul.unlearn.projection import Projection, joined
from rayul.unlearn.task import TRAINED, Task
from rayul.unlearn.trial import Wanted, device_name, evaluation_rows, failure, first_row, is_out_of_memory, numerics
from rayul.unlearn.update.lora import write_adapter

Event = tuple[int, list[Evaluation]]
"""A slot and the rows of its evaluation, as `run_trial` gives them."""


class Pack:
    """K slots on one base. Every forward has a shape of the pack's own, whoever is in it, or one of several that were
    seen to give the same bits (`widths`), and all else happens slot by slot, so that a trial's result is independent of
    its neighbours, its slot and the step at which it joined.

    spec: the sweep's spec or that of any trial of it; joining trials must be packable with it.
    """

    def __init__(self, task: Task, spec: Spec, shape: Shape) -> None:
        self.task, self.spec, self.shape = task, spec, shape
        self.slots: dict[int, Slot] = {}
        linears, self._config = pack_targets(task.base, spec.lora)
        self.layout = Layout(linears, shape.rank)
        self.parameters = Parameters(self.layout, shape.slots, task.device)
        self.base = PackedBase(task.base, [one.name for one in linears], shape.compiled)
        sets = {name: lines(rows, task.pad, task.device) for name, rows in task.training.items() if rows}
        self.reference = Reference(self.base, sets)
        self.widths = widths(self.base, sets, self.layout, shape)
        self.evaluator = Evaluator(task, self.base, self.layout, spec.evaluate, shape.lanes)

    @property
    def free(self) -> list[int]:
        return [k for k in range(self.shape.slots) if k not in self.slots]

    def refuses(self, spec: Spec) -> str | None:
        """Why a trial cannot join (it runs alone then, through `run_trial`), or None."""
        if spec.lora.r > self.shape.rank:
            return f"lora.r {spec.lora.r} is above the pack's rank {self.shape.rank}"
        if self.shape.compiled and spec.uncompilable:
            return f"the pack is compiled, and {spec.uncompilable[0][1]}"
        return packable(self.spec, spec)

    def join(self, job: TrialJob, state: SlotState | None = None) -> int:
        """Put a trial into a free slot, as `run_trial` would start it, or from a state of `state(slot)`; returns the
        slot. Raises InputError for a trial that the pack refuses, RayulError where no slot is free.
        """
        reason = self.refuses(job.spec)
        if reason is not None:
            raise InputError(f"trial {job.trial_id} cannot join this pack: {reason}", "run it alone")
        if not self.free:
            raise RayulError(f"all {self.shape.slots} slots are taken", "let a trial leave first")
        slot = self.free[0]
        method = job.spec.method.of(job.spec.method.name)
        self.parameters.values[slot] = self.layout.initial(job.spec.lora.r, job.seed, method.b_std)
        row = job.row(device_name(self.task.device), f"{self.shape}, {numerics(self.task)}")
        # Where every slot has its place in a forward, parts as small as that: none waits for another's larger batch.
        size = self.shape.rows if self.shape.group is None else None
        self.slots[slot] = Slot(self.task, job, row, self.layout, self.parameters.row(slot), size)
        if state is not None:
            self.slots[slot].resume(state)
        return slot

    def leave(self, slot: int) -> None:
        """Free a slot, whatever its trial is doing."""
        del self.slots[slot]
        self.parameters.clear(slot)

    def state(self, slot: int) -> SlotState:
        """The trial as it is, to be joined again, in this pack or in one of the same shape."""
        return self.slots[slot].state()

    def write_adapter(self, trial: Spec, values: Tensor, mixing: float, folder: Path) -> None:
        """Write an adapter as a PEFT folder, the mixing baked in. values: its row [P], as `state(slot)` has it."""
        config = copy(self._config)
        config.r, config.lora_alpha, config.lora_dropout = trial.lora.r, trial.lora.alpha, trial.lora.dropout
        write_adapter(self.layout.adapter(values, trial.lora.r), config, mixing, folder)

    def running(self, waiting: Collection[int] = ()) -> dict[int, Slot]:
        """The trials that have something to do. waiting: slots that take no step now."""
        return {k: s for k, s in self.slots.items() if not s.ended and k not in waiting}

    def turn(self, waiting: Collection[int] = ()) -> list[Event]:
        """One step of every running trial, or, where some are due, their evaluations. Returns what was reported.

        A trial that completed or failed keeps its slot, idle, until it leaves. Raises what torch raises where memory
        runs out; all trials are then between two steps of their own, and `state` is good.
        """
        running = self.running(waiting)
        due = {k: s for k, s in running.items() if s.due}
        return sorted(self._evaluate(due)) if due else self.step(running)

    # --- training ----------------------------------------------------------------------------------------------------

    def step(self, running: Mapping[int, Slot]) -> list[Event]:
        """A part of each one's step, and the update of those for whom it was the last; returns the trials that failed.

        Where each has its place in every forward, a trial with a large batch takes several turns for a step and one
        with a small batch a single one. In groups a larger batch has more lanes, and each turn is a step for all.
        """
        if not running:
            return []
        started = time.perf_counter()
        failed: dict[int, Exception] = {}
        parts = {k: slot.next_part() for k, slot in running.items()}
        noise = Noise(running, self.task.device)
        used: list[Leaves] = []
        losses = []
        with ExitStack() as moved:
            for slot in running.values():
                moved.enter_context(slot.under_way.moved())
            answers = {name: self._answers(name, parts, noise, used) for name in TRAINED}
            for k, part in parts.items():
                try:
                    own = {name: answers[name][k] for name in part.rows}
                    losses.append(running[k].loss(part, own, self.reference))
                except Exception as error:
                    failed[k] = _of_the_trial(error)
            if losses:
                held = [step.held for slot in running.values() if (step := slot.under_way).ask.by_held]
                self.parameters.add_gradient(losses, used, [one for one in held if one is not None])
        stepping = [k for k, slot in running.items() if k not in failed and slot.under_way.advance()]
        for k, terms, norm in zip(stepping, *self._terms_and_norms(stepping), strict=True):
            try:
                running[k].update(partial(self.layout.pairs, self.parameters.values[k : k + 1]), terms, norm)
            except Exception as error:
                failed[k] = _of_the_trial(error)
        self._share(running, started)
        return [self.fail(k, error) for k, error in sorted(failed.items())]

    def _terms_and_norms(self, stepping: Sequence[int]) -> tuple[list[dict[str, float]], list[float]]:
        """The terms of the loss and the gradient norm before clipping of each slot; the device is waited for once."""
        if not stepping:
            return [], []
        terms = [self.slots[k].under_way.terms for k in stepping]
        norms = []
        for k in stepping:
            limit = self.slots[k].spec.training.max_grad_norm
            norms.append(torch.nn.utils.clip_grad_norm_([self.slots[k].row], limit or torch.inf))
        numbers = iter(torch.stack([*norms, *(value for one in terms for value in one.values())]).tolist())
        found = [next(numbers) for _ in norms]
        return [{name: next(numbers) for name in one} for one in terms], found

    def _answers(self, name: str, parts: Mapping[int, Part], noise: Noise, used: list[Leaves]) -> dict[int, Answers]:
        """Each slot's predictions of its own rows of a set, from forwards of the shape [lanes * rows, T]; what their
        graphs depend on is added to `used`."""
        wanted = {k: part.rows[name] for k, part in parts.items() if part.rows.get(name)}
        pieces: dict[int, list[Answers]] = {k: [] for k in wanted}
        size = self.shape.rows
        layers = sorted({layer for k in wanted for layer in self.slots[k].layers})
        taken = {k: part.begin for k, part in parts.items()}
        for number, lanes in enumerate(forwards(wanted, self.shape, self.widths)):
            # A lane that has fewer rows repeats its last one, and one that has none takes the set's first; no loss
            # reads these.
            rows = [row for _, chunk in lanes for row in filled(chunk or [0], size)]
            batch = self.reference.sets[name].take(on_device(rows, self.task.device))
            slots = [k for k, _ in lanes]
            leaves = self.parameters.leaves(slots)
            used.append(leaves)
            read = {lane: k for lane, (k, chunk) in enumerate(lanes) if chunk}
            adapters = Adapters(leaves.pairs, self._scale(slots), noise.on(read))
            added = self._added(lanes, parts, taken) if name == "forget" else {}
            found = self.base.train((name, number), batch, adapters, layers, added)
            predicted = _by_lane_and_logp(found.logits, batch.labels, len(lanes), self.shape.compiled)
            labels, mask = (_by_lane(t, len(lanes)) for t in (batch.labels, batch.mask))
            hidden = {layer: _by_lane(h, len(lanes)) for layer, h in found.hidden.items()}
            for lane, k in read.items():
                count, own = len(lanes[lane][1]), [hidden[layer][lane] for layer in self.slots[k].layers]
                logits, logp = predicted[lane]
                own_hidden = torch.cat(own, -1)[:count] if own else None
                own_logp = None if logp is None else logp[:count]
                pieces[k].append(
                    Answers(logits[:count], labels[lane][:count], mask[lane][:count], own_hidden, own_logp)
                )
        return {k: _joined(several) for k, several in pieces.items()}

    def _added(self, lanes: Sequence[Lane], parts: Mapping[int, Part], taken: dict[int, int]) -> dict[int, Tensor]:
        """What the slots' rules hold added to hidden states, [lanes * rows, T, D] by the number of blocks before it; 0
        in all other lanes. taken: forget rows of each slot's step that came before these."""
        own: dict[int, dict[int, Tensor]] = {}
        for lane, (k, chunk) in enumerate(lanes):
            step = self.slots[k].under_way if k in parts and chunk else None
            if step is not None and step.held is not None:
                rows = step.held[taken[k] : taken[k] + len(chunk)]
                rows = torch.cat([rows, rows.new_zeros(self.shape.rows - len(chunk), *rows.shape[1:])])
                for layer, one in zip(step.room().layers, rows.unbind(2), strict=True):
                    own.setdefault(layer, {})[lane] = one
            if step is not None:
                taken[k] += len(chunk)
        blank = {layer: torch.zeros_like(next(iter(by_lane.values()))) for layer, by_lane in own.items()}
        return {n: torch.cat([by_lane.get(i, blank[n]) for i in range(len(lanes))]) for n, by_lane in own.items()}

    def _scale(self, slots: Sequence[int]) -> Tensor:
        """alpha / r of each of these; 0 where it is free."""
        scale = [self.slots[k].scale if k in self.slots else 0.0 for k in slots]
        return on_device(scale, self.task.device)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, due: Mapping[int, Slot]) -> list[Event]:
        """Rows of the trials' evaluations; in each round, what all of them want measured is measured together."""
        started = time.perf_counter()
        rows: dict[int, list[Evaluation]] = {}
        failed: dict[int, Exception] = {}
        rounds, wanted = {}, {}
        for k, slot in due.items():
            row, baseline = replace(slot.shared, step=slot.step, terms=slot.terms), slot.job.baseline
            if slot.step == 0:
                rows[k] = [first_row(row, slot.spec, baseline)]
            elif slot.watch.repeats(slot.step):
                rows[k] = [slot.watch.repeated(row)]
            else:
                rounds[k] = evaluation_rows(self.task, slot.spec, row, baseline)
                wanted[k] = next(rounds[k])
        while wanted:
            scored = self._scored(wanted)
            asked, wanted = wanted, {}
            for k, one in asked.items():
                own, slot = self.parameters.values[k : k + 1], self.slots[k]
                scales = [slot.scale * a for a in one.mixings]
                scores = [] if one.under_attack else [next(scored[one.sets]) for _ in scales]
                try:
                    if one.under_attack:
                        found = [self.evaluator.under_attack(own, scale, slot.spec, slot.job.seed) for scale in scales]
                    else:
                        found = [
                            self.evaluator.measure(s, own, a, one.sets) for s, a in zip(scores, scales, strict=True)
                        ]
                    wanted[k] = rounds[k].send(found)
                except StopIteration as end:
                    rows[k] = end.value
                except Exception as error:  # of a custom metric, or a value that is no number
                    failed[k] = _of_the_trial(error)
        self._share(due, started)
        return [self._reported(k, found) for k, found in rows.items()] + [self.fail(k, e) for k, e in failed.items()]

    def _scored(self, wanted: Mapping[int, Wanted]) -> dict[SetNames, Iterator[list[TokenScores]]]:
        """By the sets that are asked for, the scores on these of one slot after the other, coefficient by
        coefficient."""
        items: dict[SetNames, list[tuple[int, float]]] = {}
        for k, one in wanted.items():
            if not one.under_attack:
                items.setdefault(one.sets, []).extend((k, a) for a in one.mixings)
        return {
            sets: self.evaluator.score(
                self.parameters.values[[k for k, _ in some]], [self.slots[k].scale * a for k, a in some], sets
            )
            for sets, some in items.items()
        }

    # --- what becomes of a trial -------------------------------------------------------------------------------------

    def _reported(self, k: int, rows: list[Evaluation]) -> Event:
        slot = self.slots[k]
        slot.reported = slot.step
        slot.watch.reported(rows, slot.job.baseline)
        rows = [replace(row, train_seconds=slot.seconds) for row in rows]
        if slot.step == slot.spec.training.steps:
            slot.ending = rows[-1].ended(COMPLETED)
        return k, rows

    def fail(self, k: int, error: Exception) -> Event:
        """End the trial in slot k; its ending says why."""
        self.parameters.clear(k)  # first: where even that fails the trial has no ending, and the device breaks
        slot = self.slots[k]
        slot.ending = failure(replace(slot.shared, train_seconds=slot.seconds), error)
        return k, []

    def _share(self, slots: Mapping[int, Slot], started: float) -> None:
        """A trial's seconds are its share of the device's."""
        for slot in slots.values():
            slot.seconds += (time.perf_counter() - started) / len(slots)


def _of_the_trial(error: Exception) -> Exception:
    """The error, unless it is the pack's: its memory is that of all slots."""
    if is_out_of_memory(error):
        raise error
    return error


def _by_lane_and_logp(
    logits: Tensor | Projection, labels: Tensor, lanes: int, compiled: bool
) -> list[tuple[Tensor | Projection, Tensor | None]]:
    """The logits of each lane, and its labels' log-probabilities. Of a projection each trial takes them by itself, from
    its own rows alone: the parts in which they are computed have no row of another trial."""
    if isinstance(logits, Projection):
        return [(Projection(hidden, logits.head), None) for hidden in _by_lane(logits.hidden, lanes)]
    logp = label_logp(logits, labels, compiled=compiled and logits.is_cuda)
    return list(zip(_by_lane(logits, lanes), _by_lane(logp, lanes), strict=True))


def _by_lane(t: Tensor, lanes: int) -> tuple[Tensor, ...]:
    """[lanes * n, ...] -> lanes times [n, ...]: unbind and not one index a lane, each of which would bring back a
    gradient of the whole."""
    return t.view(lanes, -1, *t.shape[1:]).unbind()


def _joined(pieces: Sequence[Answers]) -> Answers:
    if len(pieces) == 1:
        return pieces[0]
    predicted, labels, mask, hidden, logp = zip(*pieces, strict=True)
    whole = [None if t[0] is None else torch.cat(t) for t in (hidden, logp)]
    return Answers(joined(predicted), torch.cat(labels), torch.cat(mask), *whole)
