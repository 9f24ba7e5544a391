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
from rayul.spec.metrics import METRICS, OWN, RESERVED, check_metric, is_forget_set, searched_of
from rayul.spec.problems import Loc, refuse, refuse_all, show
from rayul.spec.section import Section, switched
from rayul.spec.source import Rows, Source
from rayul.spec.yaml_text import unescaped

Side = Literal["forget", "retain", "rows"]
SIDES: tuple[Side, ...] = get_args(Side)

BESIDE_HOLDOUT = (*(name for name, m in METRICS.items() if m.only == ("forget",) and m.needs == "passes"), "privleak")
"""Metrics of a probe's rows to forget beside its holdout rows: membership inference."""

MAX_NEW_TOKENS = 200
"""Length limit of a generated answer. It matters: recall rewards a long answer. OpenUnlearning's value for TOFU."""


class Rouge(Section):
    """What `rouge` is: the longest common subsequence of words over those of the answer, or the F1 of that and the same
    over those of the generated text; of stems, or of words as they are."""

    kind: Literal["recall", "f1"] = "recall"
    stem: bool = True
    words: Literal["letters", "blanks"] = "letters"
    """`letters`: lower-case words without punctuation. `blanks`: what stands between blanks, as it is, sentence by
    sentence and each word once, as the package `rouge` counts and with it RWKU; with `stem: false`."""
    tokens: int | None = Field(default=None, ge=1)
    """Compare with the answer's first tokens only, this many; null for all."""

    @model_validator(mode="after")
    def _check_words(self) -> Rouge:
        if self.words == "blanks" and self.stem:
            raise refuse_all(
                [(("words",), refuse("words as they stand between blanks have no stems", "add stem: false"))]
            )
        return self


class ProbeSplit(Section):
    """Shares of a probe's rows to keep. Whole groups go to one part, in a random order that is the same each time."""

    select: float = Field(default=0.4, gt=0, lt=1)
    """What limits and objectives are measured on, the set of the probe's own name."""
    certify: float = Field(default=0.4, gt=0, lt=1)
    """Read once, by the certificate."""
    report: float = Field(default=0.2, ge=0, lt=1)
    """What the final report measures, and no decision uses."""

    @model_validator(mode="after")
    def _check_sum(self) -> ProbeSplit:
        total = self.select + self.certify + self.report
        if abs(total - 1) > 1e-6:
            raise refuse(f"the shares add up to {total:g}", "give all, so that they add up to 1")
        return self


def _check_question(text: str) -> str:
    text = unescaped(text)
    if "{question}" not in text:
        raise refuse("has no {question}", 'for example "Please answer.\\nQuestion: {question}\\n"')
    return text


def _check_stop(text: str) -> str:
    if not text:
        raise refuse("is empty, and every text has that in it", 'for example "\\n\\n"')
    return unescaped(text)


def _check_extract(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise refuse(f"is no regular expression: {error}", "for example 'the answer is (.*?)\\.'") from None
    if groups > 1:
        raise refuse(f"has {groups} groups", "keep one, around the answer; (?:...) is none")
    return text


def _check_metric(name: Any, info: ValidationInfo) -> str:
    if isinstance(name, str) and name in (info.context or {}).get(OWN, ()):
        return name
    if not _is_of_one_set(check_metric(name)):
        compared = "the oracle" if METRICS[name].needs == "oracle" else "other sets"
        raise refuse(f"{name} compares the rows of `data` with {compared}", "name it in evaluate.final")
    return str(name)


_METRICS = HasForm(lambda: one_of(filter(_is_of_one_set, METRICS), {"type": "string"}))


def _is_of_one_set(name: str) -> bool:
    """Whether a metric is of a probe's rows alone, or of them beside its holdout rows."""
    return name in BESIDE_HOLDOUT or not (METRICS[name].only or METRICS[name].needs == "oracle")


class ProbeRows(Section):
    """Rows that are measured and never trained on, and how they are asked."""

    forget: Rows | None = None
    retain: Rows | None = None
    rows: Rows | None = None
    holdout: Rows | None = None
    """Rows that no model was trained on, for membership metrics of the rows to forget."""
    metrics: tuple[Annotated[str, PlainValidator(_check_metric), _METRICS], ...] = Field(
        min_length=1, strict=False, examples=["[rouge]"]
    )
    template: Annotated[str, AfterValidator(check_template)] | None = None
    """In place of `model.template`."""
    question: Annotated[str, AfterValidator(_check_question)] = "{question}"
    """A text that replaces the question and has {question} in it, such as an instruction."""
    opening: Annotated[str, AfterValidator(unescaped)] = ""
    """First words of the answer, which the model is given, such as "Answer: " in a chat."""
    examples: Annotated[
        dict[Side, Source], BeforeValidator(lambda v: v, json_schema_input_type=Source | str | dict[Side, Source | str])
    ] = Field(default_factory=dict)
    """Example rows before every question, each with its answer and a blank line after it."""
    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, ge=1)
    stop: tuple[Annotated[str, AfterValidator(_check_stop)], ...] = Field(default=(), strict=False)
    """A generated answer ends before the first of these texts."""
    extract: Annotated[str, AfterValidator(_check_extract)] | None = None
    """A regular expression that cuts the answer out of a generated text, for exact_match and token_f1: its group, or
    all that it matches. Where it matches nothing, the whole text counts."""
    rouge: Rouge = Rouge()
    split: Annotated[ProbeSplit | None, BeforeValidator(switched, json_schema_input_type=ProbeSplit | bool | None)] = (
        None
    )
    """Holds rows to keep back from the search, which then certify limits on the others; true for the shares below."""

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
        problems = list(self._membership())
        if self.split is not None and given == ["forget"]:
            hint = "leave it out: limits on rows to forget are about these rows"
            problems.append((("split",), refuse("the probe has no rows to keep", hint)))
        problems += [
            (("examples", side), refuse("the probe has no such rows", f"give {side}, or leave these examples out"))
            for side in self.examples
            if side not in given
        ]
        if len(set(self.metrics)) < len(self.metrics):
            problems.append((("metrics",), refuse("names a metric twice", "leave one of the two out")))
        if problems:
            raise refuse_all(problems)
        return self

    def _membership(self) -> Iterator[tuple[Loc, PydanticCustomError]]:
        asked = [metric for metric in self.metrics if metric in BESIDE_HOLDOUT]
        if asked and (self.forget is None or self.holdout is None):
            text = f"{', '.join(asked)} compares rows to forget with holdout rows"
            yield ("metrics",), refuse(text, "give both forget and holdout, or leave it out")
        if self.holdout is not None and not asked:
            hint = f"name one of {', '.join(BESIDE_HOLDOUT)} in its metrics, or leave the rows out"
            yield ("holdout",), refuse("no metric of the probe reads these rows", hint)

    def sources(self, name: str) -> Iterator[tuple[str, Source, Source | None]]:
        """(set, its rows, its examples) of each set of the probe that has this name."""
        for side in SIDES:
            source = getattr(self, side)
            if source is not None:
                yield set_of(name, side), source, self.examples.get(side)

    def kept_sets(self, name: str) -> list[str]:
        """The sets of the probe of this name whose rows are to be kept."""
        return [key for key, _, _ in self.sources(name) if not is_forget_set(key)]

    def held_back(self, set_name: str) -> bool:
        """Whether some rows of one of its sets are held back from the search."""
        return self.split is not None and not is_forget_set(set_name)

    def metrics_of(self, set_name: str) -> tuple[str, ...]:
        """The metrics of one of its sets."""
        return tuple(m for m in self.metrics if is_forget_set(set_name) or m not in BESIDE_HOLDOUT)


def set_of(probe: str, side: Side | Literal["holdout"]) -> str:
    return probe if side == "rows" else f"{probe}_{side}"


def holdout_of(forget_set: str) -> str:
    """The set of the holdout rows beside those of this set."""
    return f"{forget_set.removesuffix('_forget')}_holdout"


def _check_probes(probes: dict[str, ProbeRows]) -> dict[str, ProbeRows]:
    problems: list[tuple[Loc, PydanticCustomError]] = []
    seen: dict[str, str] = {}
    for name, probe in probes.items():
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            problems.append(((name,), refuse(f"{show(name)} cannot name a probe", "use a to z, digits and _")))
        for set_name, _, _ in probe.sources(name):
            if set_name in RESERVED:
                problems.append(((name,), refuse(f"{set_name} is a set of the data", "choose another name")))
            elif searched_of(set_name) != set_name:
                hint = "choose a name that ends otherwise"
                problems.append(((name,), refuse(f"{set_name} reads like rows that are held back", hint)))
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
    """The metrics of each set of a probe in the plain data of a spec that is not validated yet, whatever it holds. A
    probe without rows has all sets here, and one without a list of metrics all metrics: it is refused itself, and an
    error for each objective that names it would say nothing more."""
    probes = data.get("probes") if isinstance(data, Mapping) else None
    found: dict[str, tuple[str, ...]] = {}
    for name, probe in probes.items() if isinstance(probes, Mapping) else ():
        plain = probe if isinstance(probe, Mapping) else {}
        metrics = plain.get("metrics")
        listed = metrics if metrics and isinstance(metrics, (list, tuple)) else METRICS
        given = [side for side in SIDES if plain.get(side) is not None] or SIDES
        found |= {set_of(str(name), side): tuple(m for m in listed if isinstance(m, str)) for side in given}
    return found
