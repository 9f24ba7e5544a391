"""The `evaluate` section: which metrics, the built-in ones by name and custom ones by file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, PlainValidator, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.custom import custom_metric, is_custom, source_of, split, with_code
from rayul.spec.forms import OWN_FUNCTION, named
from rayul.spec.harness import AnyHarnessTask
from rayul.spec.metrics import CHEAP, METRICS, STEERING, Metric, check_cheap_metric, check_metric
from rayul.spec.problems import refuse
from rayul.spec.section import Section


def metric_name(entry: str) -> str:
    """What a metric is called in "<set>.<metric>": "es" is es, "./my_metric.py:fn" is fn."""
    return split(entry)[1] if is_custom(entry) else entry


def own_metric_names(data: Any) -> frozenset[str]:
    """The names of the custom metrics in the plain data of a spec that is not validated yet, whatever it holds."""
    section = data.get("evaluate") if isinstance(data, Mapping) else None
    return frozenset(map(metric_name, _own(section)))


def _own(section: Any) -> Iterator[str]:
    for key in ("metrics", "final"):
        entries = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(entries, (list, tuple)):
            yield from (entry for entry in entries if isinstance(entry, str) and is_custom(entry))


def _check_own(name: str, info: ValidationInfo) -> str:
    custom_metric(name, source_of(name, info.data.get("code", {})))
    if metric_name(name) in METRICS:
        raise refuse(f"{name}: rayul has a metric {metric_name(name)} of its own", "give the function another name")
    return name


def _check_cheap(name: Any, info: ValidationInfo) -> str:
    """A metric that every evaluation can measure."""
    return _check_own(name, info) if isinstance(name, str) and is_custom(name) else check_cheap_metric(name)


def _check_final(name: Any, info: ValidationInfo) -> str:
    return _check_own(name, info) if isinstance(name, str) and is_custom(name) else check_metric(name)


class Evaluate(Section):
    """What is measured at an evaluation, and what at the end. A custom metric is ./my_metric.py:fn, and `fn` in
    criteria and objectives (rayul/spec/custom.py)."""

    code: dict[str, str] = Field(default_factory=dict)
    """The source text of each such file, by its path: read when the spec is, unless the spec has it (the spec.yaml of
    results does). Before the metrics, which are checked against it."""
    metrics: tuple[Annotated[str, PlainValidator(_check_cheap), named(STEERING, OWN_FUNCTION)], ...] = Field(
        default=CHEAP, strict=False
    )
    """At every evaluation, of the sets of objectives and criteria: one forward for all. At the end, of all sets."""
    sets: tuple[str, ...] = Field(default=(), strict=False, examples=["[general]"])
    """Sets to read at every evaluation beside those, to have their curves; a front point has them in any case."""
    final: tuple[Annotated[str, PlainValidator(_check_final), named(METRICS, OWN_FUNCTION)], ...] = Field(
        default=(), strict=False
    )
    """At the end, of the baseline, the oracle and every exported point, on all sets: as costly as they are."""
    lm_eval: tuple[AnyHarnessTask, ...] = Field(default=(), strict=False)
    """Tasks of lm-evaluation-harness at the end, of the same models as `final`: [mmlu, wmdp_bio, {task: my_task,
    include_path: ./tasks}]. Needs the extra `lm-eval`."""
    oracle_auc: float | None = Field(default=None, gt=0, le=1)
    """For privleak, in place of an oracle: its AUC as MUSE counts it (0.4772 for News, 0.5393 for Books)."""
    batch_size: int = Field(default=64, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    """Maximum number of rows per set, evenly spaced; null for all."""

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, section: Any) -> Any:
        return with_code(section, _own(section))

    @field_validator("metrics", "final")
    @classmethod
    def _distinct(cls, entries: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.field_name == "metrics" and not entries:
            raise refuse("is empty", "give at least one entry, or remove the key")
        seen: dict[str, str] = {}
        for entry in (*info.data.get("metrics", ()), *entries):
            if seen.setdefault(metric_name(entry), entry) != entry:
                raise refuse(f"{seen[metric_name(entry)]} and {entry} have one name", "rename one of the functions")
        return entries

    @property
    def names(self) -> tuple[str, ...]:
        """Of the metrics at every evaluation, as in "<set>.<metric>"."""
        return tuple(map(metric_name, self.metrics))

    @property
    def reported(self) -> tuple[str, ...]:
        """What is measured of baseline, oracle and saved models: that of every evaluation, and es in any case, since
        "forgotten" is 1 - forget.es / baseline whatever the search went by."""
        return tuple(dict.fromkeys((*self.metrics, "es")))

    @property
    def own(self) -> dict[str, str]:
        """The custom metrics: where each is, by its name."""
        return {metric_name(entry): entry for entry in (*self.metrics, *self.final) if is_custom(entry)}

    def of(self, name: str) -> Metric | None:
        """The metric behind a name without its set; None where there is none."""
        if name in self.own:
            return custom_metric(self.own[name], self.code[split(self.own[name])[0]])
        return METRICS.get(name)
