"""What all trials of a sweep share in one process: the frozen base, the encoded sets, the base's log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayul import spec as specs
from rayul.errors import InputError
from rayul.spec import (
    CHOICES,
    GRADIENTS,
    METRICS,
    Choice,
    Spec,
    check_chunks,
    is_report_set,
    plainly,
    report_of,
    searched_of,
)
from rayul.spec.probes import holdout_of
from rayul.unlearn.data import Row, Sets, group_numbers
from rayul.unlearn.fits import check_fits, positions, reworded
from rayul.unlearn.forward import Model, TokenScores, score
from rayul.unlearn.harness import check_tasks
from rayul.unlearn.metrics import RowMetric
from rayul.unlearn.model import load_model
from rayul.unlearn.own import own_function, own_metrics
from rayul.unlearn.packing import check_apart_in, joined, training_rows
from rayul.unlearn.refusals import REFUSALS
from rayul.unlearn.template import AnyTemplate, Template, template_for
from rayul.unlearn.tokens import Example, encode, encode_sets, pad_id
from rayul.words import plural

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

T = TypeVar("T")

_NO_PROBES: Mapping[str, specs.ProbeRows] = MappingProxyType({})

EVALUATED = ("forget", "retain", "general")
"""Sets of the data that an evaluation may read; "retain_report" is scored for the final report only."""

TRAINED = ("forget", "retain_train", "idk")


class Task:
    """Base model, tokenizer and examples by set ("idk": the refusals, one for each forget row); own: the
    custom metrics, by name; rewords: whether paraphrases and wrong answers will be scored too. Raises InputError for
    rows that do not fit into the model.

    training: the examples that trials train on, "forget", "retain_train" and "idk": those of the sets, packed where
    their source asks for it (`own_rows`: how many), and, where `extras`, behind them the paraphrases, and behind all
    retain rows all forget rows, for trials that hold some of them yet. held: where these begin. reworded: by set the
    place of a row's paraphrase, by the row's.

    probes: by their sets. steering: the metrics that objectives and criteria read, "<set>.<metric>". read: the sets
    that the evaluations of a trial read (`Spec.read_sets`); None for all. oracle_auc: for privleak of a probe."""

    def __init__(
        self,
        base: Any,
        tokenizer: Tokenizer,
        sets: Sets,
        template: AnyTemplate,
        max_rows: int | None,
        own: Mapping[str, RowMetric],
        rewords: bool = False,
        extras: bool = False,
        probes: Mapping[str, specs.ProbeRows] = _NO_PROBES,
        steering: Sequence[str] = (),
        read: Collection[str] | None = None,
        oracle_auc: float | None = None,
    ) -> None:
        self.oracle_auc = oracle_auc
        self.read = (*EVALUATED, *probes) if read is None else read
        self.template = template
        self.probes, self.steering = probes, steering
        self.own = own
        self.base = base
        self.tokenizer = tokenizer
        self.sets = sets
        self.pad = pad_id(tokenizer)
        self.examples = encode_sets(tokenizer, template, sets)
        self.examples["idk"] = [
            encode(tokenizer, template_for(row, template), row.question, _refusal(row, i))
            for i, row in enumerate(sets["forget"])
        ]
        check_fits(base, self.examples)
        self.training: dict[str, list[Example]] = {}
        for name in TRAINED[:2]:
            rows, examples = sets.get(name, ()), self.examples.get(name, [])
            shared = training_rows(rows)
            # Of a chunk all tokens are trained on, so that one by itself is joined, too.
            self.training[name] = [
                joined([examples[i] for i in places]) if rows[places[0]].chunk else examples[places[0]]
                for places in shared
            ]
            if name == "forget":
                self.training["idk"] = [self.examples["idk"][places[0]] for places in shared]
        self.own_rows = {name: len(rows) for name, rows in self.training.items()}
        check_apart_in(base, [*self.training["forget"], *self.training["retain_train"]])
        self.reworded: dict[str, dict[int, int]] = {name: {} for name in TRAINED}
        self.held = len(self.training["retain_train"])
        if extras:
            self._add_extras(template)
        if rewords:
            check_fits(base, {f"reworded {key}": reworded(tokenizer, template, rows) for key, rows in sets.items()})
        self.max_rows = max_rows
        self._reference: dict[str, list[NDArray[np.float64]]] = {}

    def _add_extras(self, template: AnyTemplate) -> None:
        for name in ("forget", "retain_train"):
            for i, row in enumerate(self.sets.get(name, ())):
                if row.paraphrased_question:
                    asked, wording = row.paraphrased_question, template_for(row, template)
                    self.reworded[name][i] = len(self.training[name])
                    self.training[name].append(encode(self.tokenizer, wording, asked, row.answer))
                    if name == "forget":
                        self.training["idk"].append(encode(self.tokenizer, wording, asked, _refusal(row, i)))
        self.held = len(self.training["retain_train"])
        self.training["retain_train"] += self.training["forget"]
        check_fits(self.base, {f"{name}, in training,": rows for name, rows in self.training.items()})

    @property
    def device(self) -> torch.device:
        return next(self.base.parameters()).device  # type: ignore[no-any-return]

    @property
    def data_sets(self) -> Sets:
        """The sets without those of probes."""
        holdout = [holdout_of(name) for name in self.probes]
        return {name: rows for name, rows in self.sets.items() if not (self.probe_of(name) or name in holdout)}

    def probe_of(self, name: str) -> specs.ProbeRows | None:
        """The probe that a set belongs to, also one of rows that are held back; None for a set of the data."""
        return self.probes.get(searched_of(name))

    def _probed(self, names: Iterable[str]) -> dict[str, specs.ProbeRows]:
        """The sets of probes that are measured with these of the data: with a report set, those of probes, too."""
        if not any(map(is_report_set, names)):
            return dict(self.probes)
        reports = {report_of(name): probe for name, probe in self.probes.items()}
        return {**self.probes, **{name: probe for name, probe in reports.items() if self.examples.get(name)}}

    def forward_metrics(self, metrics: Sequence[str], names: Sequence[str] | None = None) -> dict[str, Sequence[str]]:
        """What the one forward of an evaluation measures, by set: these metrics of sets of the data, as far as they
        have rows, and of probes their own. names: of these sets and all probes; None: of those that a trial reads."""
        every = EVALUATED if names is None else names
        probes = self._probed(every)
        read = self.read if names is None else (*names, *probes)
        found = {name: metrics for name in every if name in read and self.examples.get(name)}
        probed = {name: probe.metrics_of(name) for name, probe in probes.items() if name in read}
        cheap = {name: [metric for metric in own if self.is_cheap(metric)] for name, own in probed.items()}
        return found | {name: own for name, own in cheap.items() if own}

    def further_metrics(self, everything: bool, names: Sequence[str] = ()) -> dict[str, list[str]]:
        """What a probe measures beyond that, by set: what steers, or all of it."""
        probed = self._probed(names).items()
        asked = {name: [m for m in probe.metrics_of(name) if not self.is_cheap(m)] for name, probe in probed}
        if not everything:
            steering = self.steering
            asked = {name: [m for m in all_ if f"{searched_of(name)}.{m}" in steering] for name, all_ in asked.items()}
        return {name: further for name, further in asked.items() if further}

    def is_cheap(self, metric: str) -> bool:
        """Whether the one forward of an evaluation measures it."""
        return metric in self.own or METRICS[metric].needs == "forward"

    def evaluated(self, names: Iterable[str] = EVALUATED) -> dict[str, list[Example]]:
        """Examples of the sets to evaluate, at most `max_rows` each and evenly spaced."""
        return {name: spaced(self.examples[name], self.max_rows) for name in names if self.examples.get(name)}

    def groups(self, names: Iterable[str] = EVALUATED) -> dict[str, NDArray[np.int64]]:
        """The group of each of these examples as a number from 0, [rows], by set."""
        return {name: group_numbers(spaced(list(self.sets[name]), self.max_rows)) for name in self.evaluated(names)}

    def reference_logp(
        self, name: str, indices: Sequence[int], mask: Tensor, reference: Callable[[], AbstractContextManager[Model]]
    ) -> Tensor:
        """The base's log-probabilities [B, S] of the answer tokens of these examples, aligned with `mask` [B, S], the
        full answer mask of their batch. Computed once per process, a whole set at a time: in other batches the last
        bits would depend on which trial came first. reference: the base for the length of a block."""
        if name not in self._reference:
            with reference() as model:
                scores: list[TokenScores] = score(model, self.training[name], self.pad)
            self._reference[name] = [s.logp for s in scores]
        aligned = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        # Boolean indexing runs row by row, as the concatenation does.
        values = np.concatenate([self._reference[name][i] for i in indices])
        aligned[mask] = torch.as_tensor(values, dtype=torch.float32, device=mask.device)
        return aligned


def load_task(spec: Spec, sets: Sets) -> Task:
    """Load the model of a spec and encode the sets; raises InputError for what the method needs and the data lacks, and
    for a file with custom metrics or controls that cannot be run."""
    check_needs(spec, sets)
    own = own_metrics(spec.evaluate)
    for control in spec.control.own:
        own_function(control.name, control.code)
    base, tokenizer = load_model(spec.model, spread=spec.resources.gpu > 1)
    check_chunks(spec.data, positions(base))
    further = (*spec.evaluate.final, *(metric for probe in spec.probes.values() for metric in probe.metrics))
    rewords = any(name in METRICS and METRICS[name].needs != "forward" for name in further)
    extras = spec.training.layered is not None or spec.training.augment is not None
    template, rows = Template.of(spec.model), spec.evaluate.max_rows
    steers = spec.steering, spec.read_sets
    auc = spec.evaluate.oracle_auc
    return Task(base, tokenizer, sets, template, rows, own, rewords, extras, spec.probe_sets, *steers, auc)


def check_needs(spec: Spec, sets: Sets) -> None:
    """Raises InputError where rows are missing that the method trains on, or that criteria and objectives judge, and
    where those of one group alone would have to show how sure a criterion is."""
    by_rule = [f"with gradient: {rule}" for rule in spec.method.gradients if GRADIENTS[rule].retain]
    needing = spec.method.retaining or by_rule
    if needing and not sets.get("retain_train"):
        raise InputError(
            f"method {', '.join(needing)} trains on retain rows, and the data has none",
            "name them as data.retain_train (or data.retain, which is split)",
        )
    trained = [row for name in ("forget", "retain_train") for row in sets.get(name, ())]
    if spec.training.augment is not None and not any(row.paraphrased_question for row in trained):
        raise InputError(
            "training.augment: no row has a paraphrased question",
            "add the column paraphrased_question, or leave training.augment out",
        )
    folds, groups = _most(spec.training.layered), len(set(group_numbers(sets["forget"])))
    if folds > groups:
        raise InputError(
            f"training.layered {folds}: the forget rows have {plural(groups, 'group')}, and the rows of a group are in "
            "one fold",
            f"set {groups} or less" if groups > 1 else "leave training.layered out",
        )
    missing = [metric for metric in spec.steering if not sets.get(plainly(metric).split(".")[0])]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: the data has no such rows",
            "add them to the data, or choose a metric of another set",
        )
    if folds and any(row.chunk and row.chunk.room for row in sets["forget"]):
        raise InputError(
            "training.layered forgets group by group, and a packed row holds several",
            "leave data.forget.pack out, or training.layered",
        )
    if "latent" in spec.method.gradients and any(row.chunk for row in sets["forget"]):
        raise InputError(
            "method.gradient latent adds to the hidden states of questions, and chunks have none",
            "choose another method.gradient, or leave data.forget.chunk out",
        )
    _check_choices(spec, sets, spec.steering)
    check_tasks(spec.evaluate.lm_eval)
    if spec.control.confidence is not None:
        for name in dict.fromkeys(plainly(c.metric).split(".")[0] for c in spec.criteria):
            rows = spaced(list(sets[name]), spec.evaluate.max_rows)
            if len({row.group or i for i, row in enumerate(rows)}) < 2:
                raise InputError(
                    f"control.confidence: all {name} rows that are evaluated belong to one group, so nothing says how "
                    "far another group's would differ",
                    "add rows of other groups, or leave control.confidence out",
                )


def _check_choices(spec: Spec, sets: Sets, judged: Sequence[str]) -> None:
    """Raises InputError for metrics of multiple choice of rows without options, and for sets with both kinds of rows,
    whose means over some rows and over others would stand side by side."""
    having = {name: sum(bool(row.choices) for row in rows) for name, rows in sets.items()}
    for name, count in having.items():
        if 0 < count < len(sets[name]):
            raise InputError(
                f"{count} of {len(sets[name])} {name} rows have choices, and the others have none",
                "give rows of multiple choice and other rows as sets of their own",
            )
    asking = [metric for metric in spec.evaluate.metrics if metric in METRICS and METRICS[metric].column == CHOICES]
    for key in judged:
        name, _, metric = plainly(key).partition(".")
        if metric in asking and not having[name]:
            raise InputError(f"{key}: the {name} rows have no choices", "choose another metric, or rows with choices")
    if asking and not any(having.get(name) for name in EVALUATED):
        raise InputError(
            f"evaluate.metrics: {', '.join(asking)}: no rows that are measured have choices",
            "leave it out, or name rows with the column choices (data.columns.choices)",
        )


def _most(value: Any) -> int:
    """The largest number that a leaf of a spec may become; 0 for none."""
    options = value.options if isinstance(value, Choice) else [getattr(value, "high", value)]
    return max(int(option or 0) for option in options)


def _refusal(row: Row, number: int) -> str:
    """The refusal that answers the forget row with this number: after a passage it needs a blank of its own."""
    text = REFUSALS[number % len(REFUSALS)]
    return f" {text}" if row.text else text


def spaced(items: list[T], count: int | None) -> list[T]:
    """At most `count` items, evenly spaced."""
    if count is None or len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]
