"""`Spec`: one sweep. Its space, its resolved form, and the concrete spec of one trial."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rayul.spec.certify import AnyCertify, Certify
from rayul.spec.config import Control, Lora, Model, Resources, Search, Training
from rayul.spec.criteria import Criterion, keeping
from rayul.spec.custom import CODE, is_custom, notices, source_hash
from rayul.spec.data import AnyData, SourceData
from rayul.spec.earlier import Earlier
from rayul.spec.evaluate import Evaluate, own_metric_names
from rayul.spec.explain import explain
from rayul.spec.finalists import AnyFinalists
from rayul.spec.forms import HasForm, named
from rayul.spec.gradients import GRADIENT, OWNER, modern_params
from rayul.spec.method import MethodChoice
from rayul.spec.method_form import method_form
from rayul.spec.metrics import ATTACKED, OWN, PROBED, SEARCH_SETS, MetricKey, is_forgetting, plainly
from rayul.spec.on_end import OnEnd
from rayul.spec.own_control import OwnControl
from rayul.spec.probes import ProbeRows, Probes, probe_metrics
from rayul.spec.problems import Loc, Problem, SpecError, did_you_mean, dotted, refuse, refuse_all, show
from rayul.spec.pruning import Pruning
from rayul.spec.report import Reporting
from rayul.spec.samplers import MOST_OBJECTIVES
from rayul.spec.section import Section
from rayul.spec.space import Choice, Distribution, Float, Int
from rayul.spec.tracking import Tracking
from rayul.spec.update import UPDATES, UpdateKind, check_update

SHORTHAND = {"model": "path", "oracle": "path", "data": "folder", "method": "name", "control": "criteria"}
"""What a text or list means that stands directly under one of these keys."""


_DECIDING = ("method.name", f"method.{GRADIENT}")


def expand(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a spec with every shorthand written as the mapping it stands for."""
    return {
        key: {SHORTHAND[key]: value} if key in SHORTHAND and isinstance(value, (str, int, float, list)) else value
        for key, value in data.items()
    }


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise refuse(f"{show(name)} cannot name a folder", "use letters, digits, dots, dashes and underscores")
    return name


class Spec(Section):
    """The validated YAML of one sweep. See `rayul/spec/section.py` for where distributions stand."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(examples=["ga"])
    """The name of the results folder."""
    model: Model = Field(examples=["testbed"])
    oracle: Model | None = None
    """A model trained without the forget rows, where there is one; the testbed brings its own."""
    data: AnyData = Field(examples=["testbed"])
    probes: Probes = Field(default_factory=dict)
    """Rows by name that are measured and never trained on."""
    method: Annotated[MethodChoice, PlainValidator(MethodChoice.parse), HasForm(method_form)] = Field(examples=["ga"])
    update: Annotated[str, PlainValidator(check_update), named(UPDATES)] = "lora"
    """What a trial trains: "lora", an adapter, or "full", all weights."""
    lora: Lora = Lora()
    """Of `update: lora` only."""
    training: Training = Field(examples=["{lr: 1e-3}"])
    control: Control = Control()
    objectives: dict[MetricKey, Literal["minimize", "maximize"]] = Field(
        default={"forget.es": "minimize", "retain.es": "maximize"}, min_length=1
    )
    evaluate: Evaluate = Evaluate()
    search: Search = Search()
    pruning: Pruning = Pruning()
    resources: Resources = Resources()
    certify: AnyCertify = Certify()
    """Which points get a certificate at the end of the sweep; false for none."""
    finalists: AnyFinalists | None = None
    """The audit at the end of the sweep; without it, `rayul audit` does the same later."""
    report: Reporting = Reporting()
    tracking: Tracking = Tracking()
    on_end: OnEnd | None = None
    """Who is told that the sweep has ended; without it, nobody."""
    earlier: tuple[Earlier, ...] = Field(default=(), strict=False)
    """Certified requests that the model has been through before; the certificate of this one names them."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Spec:
        problems = [
            *self._unretained(),
            *self._uncompared(),
            *self._unmeasured(),
            *self._untargeted(),
            *self._ungriddable(),
            *self._unmodelled(),
            *self._uncompilable(),
            *self._untrainable(),
            *self._unpaired(),
            *self._unlayered(),
            *self._unperturbed(),
        ]
        if problems:
            raise refuse_all(problems)
        return self

    def _unmeasured(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        steering: dict[Loc, str] = {("control", "criteria", i): c.metric for i, c in enumerate(self.control.criteria)}
        steering |= {("objectives", key): key for key in self.objectives}
        if self.finalists is not None and self.finalists.within is not None:
            steering[("finalists", "within")] = self.finalists.within.metric
        known = [*SEARCH_SETS, *self.probe_sets]
        for i, name in enumerate(self.evaluate.sets):
            if name not in known:
                yield ("evaluate", "sets", i), refuse(f"{show(name)} is no set to evaluate", did_you_mean(name, known))
        for loc, key in steering.items():
            set_name, _, metric = key.partition(".")
            if set_name in self.probe_sets:
                continue
            if metric not in self.evaluate.names:
                entry = self.evaluate.own.get(metric, metric)
                yield loc, refuse(f"{key} is not measured", f"add {entry} to evaluate.metrics")
            if set_name == "retain" and isinstance(self.data, SourceData) and not self.data.judges_retain:
                yield loc, refuse(f"{key} has no rows", "name them in data.retain, or choose a metric of a probe")
            if set_name == "general" and isinstance(self.data, SourceData) and self.data.general is None:
                yield loc, refuse(f"{key} has no rows", "name them in data.general")

    def _unretained(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        """Retain rows may be missing where probes say what is kept."""
        if not isinstance(self.data, SourceData):
            return
        absent = self.data.absent
        if absent and not self.probes:
            hint = "give retain, which is split by group, or each of its parts; or say what is kept with probes"
            yield ("data",), refuse(f"{', '.join(absent)} missing", hint)
        elif self.method.retaining and self.data.retain is None and self.data.retain_train is None:
            text = f"{', '.join(self.method.retaining)} trains on retain rows, and the data has none"
            hint = "name them as data.retain or data.retain_train, set method.retain_weight: 0, or choose ga"
            yield ("data",), refuse(text, hint)

    def _uncompared(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        for name, probe in self.probes.items():
            if "privleak" in probe.metrics and self.evaluate.oracle_auc is None:
                hint = "give the oracle's AUC as evaluate.oracle_auc (MUSE has 0.4772 for News and 0.5393 for Books)"
                yield ("probes", name, "metrics"), refuse("privleak is compared with an oracle", hint)

    def _untargeted(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if self.control.tau is not None and all(map(is_forgetting, self.objectives)):
            hint = "add an objective such as retain.es: maximize, or write a criterion"
            yield ("control", "tau"), refuse("no objective measures utility, so there is nothing to keep", hint)

    def _uncompilable(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if self.resources.compile is True:
            for loc, text, way_out in self.uncompilable:
                yield loc, refuse(text, f"{way_out}set resources.compile: false")

    def _untrainable(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        for name in UPDATES:
            if name != self.update and name in self.model_fields_set:
                text = f"has no meaning with update: {self.update}"
                yield (name,), refuse(text, f"leave it out, or set update: {name}")
        if not self.update_kind.adapter:
            adapter = "or train an adapter beside them (update: lora)"
            if self.model.quantize is not None:
                text = f"weights in {self.model.quantize} cannot be trained, which update: {self.update} does"
                yield ("model", "quantize"), refuse(text, f"leave it out, {adapter}")
            if self.resources.gpu > 1:
                text = f"weights that update: {self.update} trains are not spread over GPUs"
                yield ("resources", "gpu"), refuse(text, f"set 1, {adapter}")

    def _unpaired(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if self.method.parameters.get("orth_weight", 0.0) != 0:
            for name in ("batch_size", "micro_batch_size"):
                value = getattr(self.training, name)
                sizes = value.options if isinstance(value, Choice) else [getattr(value, "low", value)]
                if 1 in sizes:
                    text = "method.orth_weight compares pairs of rows in a batch, and a batch of 1 has none"
                    yield ("training", name), refuse(text, "set 2 or more, or method.orth_weight: 0")

    def _unperturbed(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if "latent" in self.method.gradients:
            if self.training.gradient_checkpointing:
                text = "layers are computed again in the backward pass, without what latent adds between them"
                yield ("training", "gradient_checkpointing"), refuse(text, "set false, or another method.gradient")
            if "po" in self.method.names:
                text = "latent helps the model recall forget answers, which po never looks at"
                yield ("method", GRADIENT), refuse(text, "choose another method, or another method.gradient")

    def _unlayered(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if self.training.layered is not None:
            without = [name for name in self.method.names if "retain" not in self.method.of(name).needs]
            if without:
                text = f"{', '.join(without)} retains nothing, and a stage has to retain the folds that are not its own"
                yield ("training", "layered"), refuse(text, "choose a method with a retain term, or leave it out")

    def _ungriddable(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if self.search.traits.grid:
            for loc, value in _leaves(self):
                if isinstance(value, Float) and value.step is None:
                    yield loc, refuse("a grid needs single values", "give the range a step, or write a choice")

    def _unmodelled(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        if not self.search.traits.trajectories:
            return
        place, hint = ("search", "sampler"), "use tpe, or write one value for all trials"
        for criterion in self.criteria:
            if criterion.is_searched:
                text = f"{self.search.sampler} judges all trials by one limit on {criterion.metric}, which is searched"
                yield place, refuse(text, hint)
        if len(self.objectives) > MOST_OBJECTIVES:
            text = f"{self.search.sampler} models at most {MOST_OBJECTIVES} objectives, got {len(self.objectives)}"
            yield place, refuse(text, "use tpe, or fewer objectives")

    @property
    def update_kind(self) -> UpdateKind:
        return UPDATES[self.update]

    @property
    def uncompilable(self) -> list[tuple[Loc, str, str]]:
        """Why packs of this spec's trials cannot be compiled: place, reason, what else may be done. For the sweep and
        not forward by forward: a trial would depend on who is in its pack."""
        found: list[tuple[Loc, str, str]] = []
        if self.update_kind.alone:
            text = f"only packs are compiled, and update: {self.update} is for trials alone ({self.update_kind.alone})"
            found.append((("resources", "compile"), text, ""))
        hidden = [name for name in self.method.names if "hidden" in self.method.of(name).needs]
        if hidden:
            text = f"{', '.join(hidden)} reads hidden states, which torch.compile cannot collect"
            found.append((("method", "name"), text, "leave it out, or "))
        if "latent" in self.method.gradients:
            text = "latent adds to hidden states, which torch.compile cannot follow"
            found.append((("method", GRADIENT), text, "leave it out, or "))
        if self.lora.dropout != 0:
            text = "dropout draws from a generator of each trial, which torch.compile cannot follow"
            found.append((("lora", "dropout"), text, "set 0, or "))
        return found

    @property
    def probe_sets(self) -> dict[str, ProbeRows]:
        """The sets that the probes are, each with its probe."""
        return {key: probe for name, probe in self.probes.items() for key, _, _ in probe.sources(name)}

    @property
    def steering(self) -> tuple[str, ...]:
        """The metrics of objectives and criteria, "<set>.<metric>"."""
        return tuple(dict.fromkeys([*self.objectives, *(c.metric for c in self.criteria)]))

    @property
    def read_sets(self) -> frozenset[str] | None:
        """The sets that the evaluations of a trial read: those of objectives and criteria, and evaluate.sets. None for
        all: a pruning rule of the user's own may look at any."""
        if self.pruning.rules:
            return None
        return frozenset([*(plainly(key).partition(".")[0] for key in self.steering), *self.evaluate.sets])

    @property
    def under_attack(self) -> dict[str, tuple[str, ...]]:
        """By attack that steers, the metrics that are measured under it."""
        pairs = [key.partition(".")[::2] for key in self.steering]
        return {name: found for name in ATTACKED if (found := tuple(metric for s, metric in pairs if s == name))}

    def is_random(self, trials: int) -> bool:
        """Whether a sampler that would learn draws this many trials at random, the search being too short for it."""
        search = self.search
        if search.traits.learns == "nothing" or is_custom(search.sampler) or search.warm_start or not self.space:
            return False
        return trials <= search.startup_trials

    @property
    def notices(self) -> list[str]:
        """A line for each code from outside that a sweep runs, for who is told of its end, and for more trials than
        there are settings."""
        models = [model for model in (self.model, self.oracle) if model is not None and model.trust_remote_code]
        code = notices(self.code) + [f"code that comes with {m.path} will run (trust_remote_code)" for m in models]
        tasks = [task for task in self.evaluate.lm_eval if task.include_path is not None]
        code += [
            f"the task folder {task.include_path} may hold code, which will run (evaluate.lm_eval)" for task in tasks
        ]
        return code + list(self._alerts()) + list(self._few_cells())

    def _alerts(self) -> Iterator[str]:
        if self.on_end is not None and self.on_end.command is not None:
            yield f"at its end the sweep runs {shlex.join(self.on_end.command)} (on_end.command)"
        if self.on_end is not None and self.on_end.webhook is not None:
            yield f"at its end the sweep sends its numbers to {self.on_end.webhook} (on_end.webhook)"

    def _few_cells(self) -> Iterator[str]:
        combinations, continuous = self.size
        trials = self.search.trials
        if not self.space or continuous or trials <= combinations:
            return
        if self.search.traits.grid:
            yield f"the grid has {combinations} cells, fewer than search.trials of {trials}: each runs once"
        else:
            yield f"{trials} trials over {combinations} combinations: they repeat settings, with other seeds"

    @property
    def code(self) -> dict[str, str]:
        """The source texts of custom losses, controls, metrics, samplers and pruning rules, by path. Samplers and
        rules run in the driver, the others where trials do."""
        return dict(self.source_texts)

    @property
    def source_texts(self) -> list[tuple[str, str]]:
        """(path, text) of all that `code` has: each section carries its own, and nothing but good manners makes two
        texts of one path the same."""
        controls = [own.code for own in self.control.own]
        carried = (self.method.code, *controls, self.evaluate.code, self.search.code, self.pruning.code)
        return list(dict.fromkeys(item for code in carried for item in code.items()))

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All criteria in force: those of control.criteria and what control.tau asks, of a list the smallest share."""
        return self.criteria_at(min(self.targets) if self.targets else self.control.tau)

    @property
    def targets(self) -> tuple[float, ...]:
        """The shares of control.tau where it is a list, the largest first."""
        return tuple(sorted(self.control.tau, reverse=True)) if isinstance(self.control.tau, tuple) else ()

    @property
    def certified_points(self) -> int:
        """How many points get a certificate at most: one for each target where there are several; 0 for none."""
        return 0 if self.certify is None else len(self.targets) or self.certify.points

    def criteria_at(self, tau: Any) -> tuple[Criterion, ...]:
        """The criteria with this share (or distribution of shares) as control.tau; None for none."""
        utility = {} if tau is None else {m: d for m, d in self.objectives.items() if not is_forgetting(m)}
        asked = [keeping(metric, direction, tau) for metric, direction in utility.items()]
        # One that stands among the criteria already, with a patience perhaps, is not asked twice.
        known = [(criterion.metric, criterion.at_least, criterion.at_most) for criterion in self.control.criteria]
        new = [one for one in asked if (one.metric, one.at_least, one.at_most) not in known]
        return (*self.control.criteria, *new)

    @property
    def space(self) -> dict[str, Distribution]:
        """The distributions by dotted key, e.g. "training.lr"; `method.name` before the parameters it has."""
        return {dotted(loc): value for loc, value in _leaves(self) if isinstance(value, Distribution)}

    @property
    def priors(self) -> dict[str, Float | Int]:
        """The ranges of the space that have a prior."""
        return {key: one for key, one in self.space.items() if isinstance(one, (Float, Int)) and one.prior is not None}

    @property
    def size(self) -> tuple[int, tuple[str, ...]]:
        """How many combinations of the discrete values there are, and the keys that are continuous. A parameter
        multiplies only the combinations in which it is active."""
        space = {key: one for key, one in self.space.items() if key not in _DECIDING}
        combinations = sum(
            math.prod(one.count or 1 for key, one in space.items() if self.is_active(key, params))
            for params in self._decided
        )
        return combinations, tuple(key for key, one in space.items() if one.count is None)

    def is_active(self, key: str, params: Mapping[str, Any]) -> bool:
        """Whether the distribution `key` of the space is used by a trial that has drawn `params` so far: a parameter of
        a method, or of a gradient rule, only where that one was drawn."""
        section, _, parameter = key.partition(".")
        if section != "method" or parameter == "name":
            return True
        if parameter in OWNER:
            chosen = params.get(f"method.{GRADIENT}", self.method.parameters.get(GRADIENT))
            return bool(chosen == OWNER[parameter])
        return parameter in self.method.of(params.get("method.name", self.method.name)).parameters

    @property
    def _decided(self) -> list[dict[str, str]]:
        """Every combination of what decides which other parameters a trial has: its method and its gradient rule."""
        return [dict(zip(_DECIDING, pair, strict=True)) for pair in product(self.method.names, self.method.gradients)]

    @property
    def conditional(self) -> list[str]:
        """The searched parameters that only some of the searched methods or gradient rules have."""
        return [key for key in self.space if not all(self.is_active(key, params) for params in self._decided)]

    def at(self, params: Mapping[str, Any]) -> Spec:
        """The spec of one trial: every distribution replaced by its value in `params` (dotted keys, as in `space`).

        Values for parameters that the drawn method does not have are ignored. Raises SpecError for an unknown key, a
        missing one, or a value outside its distribution.
        """
        space = {loc: value for loc, value in _leaves(self) if isinstance(value, Distribution)}
        keys = [dotted(loc) for loc in space]
        params = modern_params(params)
        problems = [
            Problem("", key, "is not searched", did_you_mean(key, keys) if keys else "the spec searches nothing")
            for key in params
            if key not in keys
        ]
        plain = self.resolved()
        for loc, distribution in space.items():
            key = dotted(loc)
            if key in _DECIDING and not distribution.contains(params.get(key)):
                raise SpecError([*problems, _outside(key, distribution, params)])
            if not self.is_active(key, params):
                del plain["method"][loc[-1]]
            elif key in params and distribution.contains(params[key]):
                _replace(plain, loc, params[key])
            else:
                problems.append(_outside(key, distribution, params))
        if problems:
            raise SpecError(problems)
        chosen = self.method.of(plain["method"]["name"]).parameters
        plain["method"] = {k: v for k, v in plain["method"].items() if k in ("name", CODE) or k in chosen}
        return from_plain(plain)

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default written out; `load_spec` of its YAML is this spec again. A parameter of the
        method is left out only where the name is searched and the methods' defaults differ; so are the sections of
        other updates."""
        plain: dict[str, Any] = _plain(self)
        return {key: value for key, value in plain.items() if key not in UPDATES or key == self.update}


def from_plain(data: Mapping[str, Any]) -> Spec:
    """A spec from plain data, e.g. `Spec.resolved()`. Does not look at the disk. Raises SpecError."""
    try:
        return validated(dict(data), check_files=False)
    except ValidationError as error:
        raise SpecError(Problem("", dotted(loc), text, hint) for loc, text, hint in explain(error, Spec)) from None


def validated(data: dict[str, Any], *, check_files: bool) -> Spec:
    """Raises pydantic's ValidationError."""
    context = {"check_files": check_files, OWN: own_metric_names(data), PROBED: probe_metrics(data)}
    return Spec.model_validate(data, context=context)


def without_priors(spec: Spec) -> Spec:
    """The same space, drawn evenly from the start."""
    plain = spec.resolved()
    for loc, value in _leaves(spec):
        if isinstance(value, (Float, Int)) and value.prior is not None:
            form = {key: part for key, part in value.to_yaml().items() if key != "prior"}
            _replace(plain, loc, form)
    return from_plain(plain)


def difference(a: Spec, b: Spec) -> list[str]:
    """What changed from `a` to `b`, a line each: "training.lr: 0.001 -> 0.002"."""
    before, after = ({dotted(loc): _show(value) for loc, value in _leaves(spec)} for spec in (a, b))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _outside(key: str, distribution: Distribution, params: Mapping[str, Any]) -> Problem:
    if key not in params:
        return Problem("", key, "has no value", f"draw one from {_show(distribution)}")
    return Problem("", key, f"{show(params[key])} is outside of {_show(distribution)}")


def _leaves(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """Every single value, list of single values, limit or distribution of a spec with its place, in order."""
    if isinstance(value, Section):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), (*loc, name))
    elif isinstance(value, (MethodChoice, OwnControl)):
        yield from _leaves(value.to_yaml(), loc)
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*loc, key))
    elif isinstance(value, tuple) and any(isinstance(child, (Section, OwnControl)) for child in value):
        for index, child in enumerate(value):
            yield from _leaves(child, (*loc, index))
    else:
        yield loc, value


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _plain(field) for name, field in fields.items() if name != CODE or field}
    if hasattr(value, "to_yaml"):
        return _plain(value.to_yaml())
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, (tuple, list)) else value


def _show(value: Any) -> str:
    plain = _plain(value)
    if isinstance(value, (Float, Int, Choice)):
        return "{" + ", ".join(f"{key}: {show(child)}" for key, child in plain.items()) + "}"
    if isinstance(plain, str) and "\n" in plain:
        return f"{len(plain.splitlines())} lines with sha256 {source_hash(plain)[:12]}"
    return plain if isinstance(plain, str) else show(plain)


def _replace(plain: Any, loc: Loc, value: Any) -> None:
    for part in loc[:-1]:
        plain = plain[part]
    plain[loc[-1]] = value
