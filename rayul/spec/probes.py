"""The `probes` section: rows that are measured and never trained on, and how each of them is asked.

A probe of `forget` and `retain` rows is two sets, <name>_forget and <name>_retain; one of `rows` is the set <name>,
whose rows are to be kept. Their metrics are named like any other: knowmem_forget.rouge, mmlu.choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.config import check_template
from rayul.spec.forms import HasForm, one_of
from rayul.spec.metrics import METRICS, OWN, RESERVED, check_metric, is_forget_set
from rayul.spec.problems import Loc, refuse, refuse_all, show
from rayul.spec.section import Section
from rayul.spec.source import Rows, Source
from rayul.spec.yaml_text import unescaped

Side = Literal["forget", "retain", "rows"]
SIDES: tuple[Side, ...] = get_args(Side)

MAX_NEW_TOKENS = 200
"""Length limit of a generated answer. It matters: recall rewards a long answer. OpenUnlearning's value for TOFU."""


class Rouge(Section):
    """What `rouge` is: the longest common subsequence of words over those of the answer, or the F1 of that and the same
    over those of the generated text; of stems, or of words as they are."""

    kind: Literal["recall", "f1"] = "recall"
    stem: bool = True


def _check_stop(text: str) -> str:
    if not text:
        raise refuse("is empty, and every text has that in it", 'for example "\\n\\n"')
    return unescaped(text)


def _check_metric(name: Any, info: ValidationInfo) -> str:
    if isinstance(name, str) and name in (info.context or {}).get(OWN, ()):
        return name
    if not _is_of_one_set(check_metric(name)):
        compared = "the oracle" if METRICS[name].needs == "oracle" else "other sets"
        raise refuse(f"{name} compares the rows of `data` with {compared}", "name it in evaluate.final")
    return str(name)


_METRICS = HasForm(lambda: one_of(filter(_is_of_one_set, METRICS), {"type": "string"}))


def _is_of_one_set(name: str) -> bool:
    return not METRICS[name].only and METRICS[name].needs != "oracle"


class ProbeRows(Section):
    """Rows that are measured and never trained on, and how they are asked."""

    forget: Rows | None = None
    retain: Rows | None = None
    rows: Rows | None = None
    metrics: tuple[Annotated[str, PlainValidator(_check_metric), _METRICS], ...] = Field(
        min_length=1, strict=False, examples=["[rouge]"]
    )
    template: Annotated[str, AfterValidator(check_template)] | None = None
    """In place of `model.template`."""
    examples: Annotated[
        dict[Side, Source], BeforeValidator(lambda v: v, json_schema_input_type=Source | str | dict[Side, Source | str])
    ] = Field(default_factory=dict)
    """Rows that stand, with their answers and a blank line after each, before every question."""
    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, ge=1)
    stop: tuple[Annotated[str, AfterValidator(_check_stop)], ...] = Field(default=(), strict=False)
    """A generated answer ends before the first of these texts."""
    rouge: Rouge = Rouge()

    @model_validator(mode="before")
    @classmethod
    def _examples_of_sides(cls, probe: Any) -> Any:
        """One source of examples is for all of the probe's rows."""
        examples = probe.get("examples") if isinstance(probe, Mapping) else None
        if isinstance(examples, str):
            examples = {"path": examples}
        if not isinstance(examples, Mapping):
            return probe
        if "path" in examples:
            return {**probe, "examples": {side: examples for side in SIDES if probe.get(side) is not None}}
        sides = {side: {"path": one} if isinstance(one, str) else one for side, one in examples.items()}
        return {**probe, "examples": sides}

    @model_validator(mode="after")
    def _check_sides(self) -> ProbeRows:
        given = [side for side in SIDES if getattr(self, side) is not None]
        if not given or ("rows" in given and len(given) > 1):
            text = "has no rows" if not given else "has rows of its own beside those to forget and to retain"
            raise refuse(text, "give forget, retain or both; or rows, of which nothing is to be forgotten")
        problems: list[tuple[Loc, PydanticCustomError]] = [
            (("examples", side), refuse("the probe has no such rows", f"give {side}, or leave these examples out"))
            for side in self.examples
            if side not in given
        ]
        if len(set(self.metrics)) < len(self.metrics):
            problems.append((("metrics",), refuse("names a metric twice", "leave one of the two out")))
        if problems:
            raise refuse_all(problems)
        return self

    def sources(self, name: str) -> Iterator[tuple[str, Source, Source | None]]:
        """(set, its rows, its examples) of each set of the probe that has this name."""
        for side in SIDES:
            source = getattr(self, side)
            if source is not None:
                yield set_of(name, side), source, self.examples.get(side)


def set_of(probe: str, side: str) -> str:
    return probe if side == "rows" else f"{probe}_{side}"


def _check_probes(probes: dict[str, ProbeRows]) -> dict[str, ProbeRows]:
    problems: list[tuple[Loc, PydanticCustomError]] = []
    seen: dict[str, str] = {}
    for name, probe in probes.items():
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            problems.append(((name,), refuse(f"{show(name)} cannot name a probe", "use a to z, digits and _")))
        for set_name, _, _ in probe.sources(name):
            if set_name in RESERVED:
                problems.append(((name,), refuse(f"{set_name} is a set of the data", "choose another name")))
            elif probe.rows is not None and (is_forget_set(set_name) or set_name.endswith("_retain")):
                hint = "name its rows as the probe's forget or retain, or choose another name"
                problems.append(((name,), refuse(f"{set_name} reads like one side of a probe", hint)))
            elif set_name in seen:
                text = f"{set_name} is also a set of the probe {seen[set_name]}"
                problems.append(((name,), refuse(text, "choose another name")))
            seen[set_name] = name
    if problems:
        raise refuse_all(problems)
    return probes


Probes = Annotated[dict[str, ProbeRows], AfterValidator(_check_probes)]


def probe_metrics(data: Any) -> dict[str, tuple[str, ...]]:
    """The metrics of each set of a probe in the plain data of a spec that is not validated yet, whatever it holds."""
    probes = data.get("probes") if isinstance(data, Mapping) else None
    found: dict[str, tuple[str, ...]] = {}
    for name, probe in probes.items() if isinstance(probes, Mapping) else ():
        metrics = probe.get("metrics") if isinstance(probe, Mapping) else None
        if isinstance(metrics, (list, tuple)):
            named = tuple(metric for metric in metrics if isinstance(metric, str))
            found |= {set_of(str(name), side): named for side in SIDES if probe.get(side) is not None}
    return found
