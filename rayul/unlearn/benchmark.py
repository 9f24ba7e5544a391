"""What a benchmark says of one model: the probes of its shipped spec, measured, under the benchmark's own names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayul.spec import Spec
from rayul.spec.benchmarks import PERCENT, Numbers
from rayul.unlearn.data import probe_sets
from rayul.unlearn.measured import Measured
from rayul.unlearn.model import load_model
from rayul.unlearn.suite import SuiteResult, evaluate_model
from rayul.unlearn.task import spaced
from rayul.unlearn.template import Template
from rayul.words import one_digit

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class BenchmarkResult:
    """numbers: by the benchmark's names; sources: the metrics that each is of; suite: these, and why one is not
    there."""

    numbers: dict[str, Measured]
    sources: Numbers
    suite: SuiteResult

    def to_json(self) -> str:
        """Strict JSON: {"numbers": {name: {"value", "stderr", "rows", "groups"}}}, and what `SuiteResult` has of the
        metrics behind them."""
        named = json.loads(SuiteResult(self.numbers, {}).to_json())["measured"]
        return json.dumps({"numbers": named} | json.loads(self.suite.to_json()), indent=2, allow_nan=False)

    def table(self) -> Table:
        """A row a number of the benchmark."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        reasons = [f"- {key}: {reason}" for key, reason in self.suite.skipped.items()]
        # Names are whole: in 80 columns there is no room for them and for lines between columns.
        caption = "\n".join([*self.suite.notes, *reasons]) or None
        table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column("number", no_wrap=True)
        table.add_column("value", no_wrap=True, justify="right")
        table.add_column("rows", no_wrap=True, justify="right")
        table.add_column("measured as", overflow="fold")
        for name, keys in self.sources.items():
            found = self.numbers.get(name)
            value = "-" if found is None else f"{found.value:.4g}"
            error = "" if found is None or math.isnan(found.stderr) else f" ± {one_digit(found.stderr)}"
            table.add_row(name, value + error, "" if found is None else f"{found.rows:,}", ",\n".join(keys))
        return table


def measure_benchmark(
    spec: Spec, numbers: Numbers, max_rows: int | None, progress: Callable[[str, float], None]
) -> BenchmarkResult:
    """Measure the probes of a spec that these numbers are of, on all of their rows: without a search none are held
    back. Raises InputError for rows that cannot be read or do not fit into the model."""
    used = {key.partition(".")[0] for keys in numbers.values() for key in keys}
    whole = {name: probe.model_copy(update={"split": None}) for name, probe in spec.probes.items()}
    asked = {name: probe for name, probe in whole.items() if used & {key for key, _, _ in probe.sources(name)}}
    sets = {name: tuple(spaced(list(rows), max_rows)) for name, rows in probe_sets(asked).items()}
    model, tokenizer = load_model(spec.model)
    suite = evaluate_model(
        model,
        tokenizer,
        sets,
        Template.of(spec.model),
        metrics=(),
        batch_size=spec.evaluate.batch_size,
        progress=progress,
        oracle_auc=spec.evaluate.oracle_auc,
        probes={key: probe for key, probe in spec.probe_sets.items() if key in sets},
    )
    return BenchmarkResult(_named(numbers, suite.measured), numbers, suite)


def _named(numbers: Numbers, measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """The benchmark's numbers, as far as their metrics are measured."""
    found = {}
    for name, keys in numbers.items():
        if all(key in measured for key in keys):
            one = pooled_mean([measured[key] for key in keys])
            scale = 100 if name in PERCENT else 1
            found[name] = one._replace(value=scale * one.value, stderr=scale * one.stderr)
    return found


def pooled_mean(parts: list[Measured]) -> Measured:
    """The mean over the rows of independent sets together."""
    rows = sum(part.rows for part in parts)
    value = sum(part.rows * part.value for part in parts) / rows
    error = math.sqrt(sum((part.rows * part.stderr) ** 2 for part in parts)) / rows
    return Measured(value, error, rows, sum(part.groups for part in parts))
