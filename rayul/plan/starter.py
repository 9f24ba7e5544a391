"""A commented spec to start from, for somebody's own rows: `rayul init --forget f.jsonl --retain r.jsonl`."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayul.errors import InputError
from rayul.plan.certificate import CertifyRows, kept_in
from rayul.spec import (
    GROUP_ALIAS,
    LEAST_GROUPS,
    SAMPLERS,
    TESTBED,
    SourceData,
    Split,
    dump_yaml,
    parse_spec,
    shipped_specs,
)
from rayul.spec.json_schema import EDITOR_LINE
from rayul.spec.shipped import way_to_shipped
from rayul.unlearn.data import column_names, load_sets, read_records
from rayul.unlearn.data.columns import likely_columns, lines_that_map
from rayul.words import plural

FORMS = (("question", "answer"), ("text",), ("messages",))
"""Columns that a row has, one of these."""

MAX_ROWS = 400
"""Rows of a set that an evaluation of the written spec reads at the most: a share of independent rows has a standard
error of 2.5% then."""


def starter_spec(name: str, forget: Path, retain: Path, model: str | None = None, group: str | None = None) -> str:
    """The text of a spec on these two files, valid under `load_spec`, every key with a comment above it. group: the
    files' column that says which rows belong together; without it, one of a usual name.

    Reads the rows: batch size and steps follow from their number. Raises InputError for files that cannot be read,
    columns that cannot be mapped, and rows that cannot be split or that stand in both files.
    """
    columns = [_columns(path, group) for path in (forget, retain)]
    sources = [{"path": str(path), "columns": mapped} for path, mapped in zip((forget, retain), columns, strict=True)]
    sets = load_sets(SourceData.model_validate({"forget": sources[0], "retain": sources[1]}))
    rows = len(sets["forget"])
    batch_size = _batch_size(rows)
    steps = min(200, max(20, round(6 * rows / batch_size)))
    max_rows = MAX_ROWS if max(rows, len(sets["retain"])) > MAX_ROWS else None
    counts = ", ".join(f"{key} {len(found)}" for key, found in sets.items())
    text = EDITOR_LINE + _TEMPLATE.format(
        name=_yaml(name),
        model=_yaml(model or TESTBED),
        no_model="" if model else _NO_MODEL,
        forget=_source_text(forget, {} if columns[0] == columns[1] else columns[0]),
        retain=_source_text(retain, {} if columns[0] == columns[1] else columns[1]),
        columns=_columns_text(columns[0], 2) if columns[0] == columns[1] else "",
        counts=counts,
        rows=rows,
        batch_size=batch_size,
        steps=steps,
        epochs=f"{steps * batch_size / rows:.3g}",
        samplers=", ".join(SAMPLERS),
        max_rows="null" if max_rows is None else max_rows,
        certify=_certify_text(kept_in(sets)["retain_certify"]),
    )
    parse_spec(text, source="rayul init")
    return text


def grouping_columns(forget: Path, retain: Path) -> list[str]:
    """Columns of both files that may say which rows belong together, where `starter_spec` finds no group: they have no
    other use, and hold a text or number that several rows of the retain file share."""
    columns = [_mapped(path, column_names(path)) for path in (forget, retain)]
    if any("group" in mapped for mapped in columns):
        return []
    used = {theirs for mapped in columns for theirs in mapped.values()}
    found: dict[str, Counter[object]] = {name: Counter() for name in column_names(forget) if name not in used}
    for _, record in read_records(retain):
        for name, values in found.items():
            if isinstance(record.get(name), str | int):
                values[record[name]] += 1
    return [name for name, values in found.items() if 1 < len(values) < values.total()]


def copied_spec(name: str, out: Path) -> str:
    """The text of a shipped spec under a name of its own, to be written to `out`. Raises InputError for a name that no
    shipped spec has, or that `out` cannot give."""
    if name not in shipped_specs():
        raise InputError(f"no shipped spec {name}", way_to_shipped(Path(name).stem))
    text = shipped_specs()[name].read_text(encoding="utf-8")
    text = text.replace(f"rayul sweep {name}", f"rayul sweep {shlex.quote(str(out))}")
    text = re.sub(r"^name: .*$", lambda _: f"name: {_yaml(out.stem)}", text, count=1, flags=re.MULTILINE)
    parse_spec(text, source="rayul init", check_files=False)
    return text


def _columns(path: Path, group: str | None) -> dict[str, str]:
    """Our column names to the file's, where they differ."""
    names = column_names(path)
    if group is not None and group not in names:
        raise InputError(f"{path}: no column {group!r} for --group", f"the columns are {', '.join(names)}")
    mapped = _mapped(path, names) | ({} if group is None else {"group": group})
    return {ours: theirs for ours, theirs in mapped.items() if not _is_ours(ours, theirs)}


def _is_ours(name: str, column: str) -> bool:
    return column == name or (name == "group" and column == GROUP_ALIAS)


def _mapped(path: Path, names: Sequence[str]) -> dict[str, str]:
    if not names:
        raise InputError(f"{path} has no rows", "name a file with rows")
    mapped = likely_columns(names)
    for wanted in FORMS:
        if all(name in mapped for name in wanted):
            return {ours: theirs for ours, theirs in mapped.items() if ours in (*wanted, "group")}
    missing = " and ".join(name for name in ("question", "answer") if name not in mapped)
    raise InputError(
        f"{path}: no column for {missing}; the columns are {', '.join(names)}",
        "name them question and answer (or text, for passages to be continued; messages, for conversations), or write "
        f"a spec yourself (rayul init --from ga) that says which they are:\n{lines_that_map(names, {})}",
    )


def _batch_size(rows: int) -> int:
    """A power of two, up to 16, that passes the forget set in about ten steps; never more than its rows."""
    size = 2
    while size < 16 and size * 2 <= rows / 8:
        size *= 2
    return min(size, rows)


def _yaml(text: str) -> str:
    return dump_yaml(text).removesuffix("\n").removesuffix("\n...")


def _source_text(path: Path, columns: Mapping[str, str]) -> str:
    if not columns:
        return f" {_yaml(str(path))}"
    return (
        f"\n    # The file, and its own names of columns.\n    path: {_yaml(str(path))}\n"
        + _columns_text(columns, 4)[:-1]
    )


def _columns_text(columns: Mapping[str, str], indent: int) -> str:
    if not columns:
        return ""
    lines = ["# rayul's names of columns: the files' names. A column that is not listed has rayul's name.", "columns:"]
    for ours, theirs in columns.items():
        lines += [f"  # {_COLUMN[ours]}", f"  {ours}: {_yaml(theirs)}"]
    return "".join(f"{' ' * indent}{line}\n" for line in lines)


_OFF = "# Off: "


def _certify_text(kept: CertifyRows) -> str:
    if kept.groups < LEAST_GROUPS:
        share = Split().certify
        why = (
            f"{plural(kept.groups, 'group')} of rows would be kept for it ({share:.0%} of those in --retain), and it "
            f"takes {LEAST_GROUPS}: give rows to keep of {math.ceil(LEAST_GROUPS / share)} groups or more."
        )
        return f"{_OFF}{why}\ncertify: false\n"
    return _CERTIFY


def why_uncertified(text: str) -> str:
    """Of a starter spec, why it has no certificate, in a sentence; "" where it has one."""
    return next((line.removeprefix(_OFF) for line in text.splitlines() if line.startswith(_OFF)), "")


_CERTIFY = """\
certify:
  # Maximum number of points, spread over the front. They share the confidence.
  points: 5
  # That every certified point keeps the limits on new groups.
  confidence: 0.9
"""

_COLUMN = {
    "question": "What the model is asked.",
    "answer": "What it has to answer, or no longer to.",
    "group": "Rows of one group (a person, a book) stand or fall together: they are split and resampled together.",
    "messages": "A conversation as a list of {role, content}: the assistant's last message is the answer.",
    "text": "A passage: its first half is the prompt, its second half what must no longer be continued.",
}

_NO_MODEL = """\
# TO DO: name the model that was trained on the forget rows. The testbed has never seen them.
"""

_TEMPLATE = """\
# A sweep on your own rows ({counts}).
#
#     rayul plan FILE      what it will cost, and what looks wrong
#     rayul sweep FILE     run it
#
# Wherever one value stands under method, lora, training or control, a distribution to search may stand instead:
#     {{float: [low, high]}}            a number; log: true for its logarithm, step: 0.1 for a grid of values
#     {{int: [low, high]}}              a whole number, ends included; log and step as above
#     {{choice: [a, b, c]}}             one of the options
# Any key can be set from the command line: --set training.steps=30

# The sweep's name; results go to results/<name>.
name: {name}

# The model that has to forget.
{no_model}model:
  # A folder with a Hugging Face model, or a Hub id.
  path: {model}
  # float32, bfloat16 (half the memory; for a GPU), float16, or auto: as it was saved.
  dtype: float32
  # How a row becomes a text, as in the model's training: chat, or "Question: {{question}}\\nAnswer: {{answer}}".
  # null: the tokenizer's chat template where it has one, else this text.
  template: null

# The rows.
data:
  # What the model has to forget: a file of JSON lines, CSV, TSV or Parquet, or {{path, where, limit, ...}}.
  forget:{forget}
  # What it has to keep. Split by group: 50% to train on, 20% to judge trials by, 20% for the certificate and 10%
  # for the final report, which nothing else reads. Groups are dealt in a random order, the same each time.
  retain:{retain}
{columns}
# The unlearning loss and its parameters.
method:
  # ga ascends the forget loss, gd adds the loss on retain rows, npo is a bounded ascent with both.
  name: {{choice: [ga, gd, npo]}}
  # (--set method.name=ga runs one of them, without the parameters that only the others have.)
  # Weight of the retain loss, of gd and npo.
  retain_weight: {{float: [0.25, 4.0], log: true}}
  # Inverse temperature of npo; towards 0 it becomes gradient ascent.
  beta: {{float: [0.02, 1.0], log: true}}

# The adapter that is trained; the model itself stays frozen.
lora:
  # Rank: how much the adapter can express.
  r: {{choice: [4, 8, 16]}}
  # Its update is scaled by alpha / r.
  alpha: {{choice: [8, 16, 32]}}

# The optimiser (AdamW) and how long it runs.
training:
  # Learning rate: small models bear more, up to 5e-3.
  lr: {{float: [1e-5, 1e-3], log: true}}
  # Forget rows a step, of {rows}.
  batch_size: {batch_size}
  # Optimiser steps of a trial, unless it is stopped early: {epochs} passes over the forget set.
  steps: {steps}
  # Steps between evaluations: a number, or auto, which is a quarter of the steps (a twelfth without mixing).
  evaluate_every: auto

# What limits excessive unlearning.
control:
  # Utility limits: only evaluations that keep all of them can be on the front.
  criteria:
    # Probability of the answers to keep, which every model has. Stricter: retain.es, what it completes exactly.
    - metric: retain.prob
      # Of the value before unlearning. A plain number such as 0.5 is absolute; at_most limits from above.
      at_least: 90% of baseline
  # Model mixing: scale each adapter back to the largest share that keeps the limit, so that a run that went too far is
  # still useful. Without it a trial that breaks the limit is stopped.
  mixing: true

# What the search trades off, as <set>.<metric>.
objectives:
  # Probability of the answers to forget.
  forget.prob: minimize
  # Probability of the answers to keep.
  retain.prob: maximize

# What is measured at every evaluation.
evaluate:
  # Maximum number of rows per set, evenly spaced; null for all.
  max_rows: {max_rows}

# What to try, and how often.
search:
  # One of {samplers}.
  sampler: tpe
  # Configurations to try.
  trials: 32
  # Seed of the sampler and of every trial.
  seed: 0
  # Also end after this time, such as 2h or 30m; null for no limit.
  time_limit: null

# Which points of the front get a certificate at the end, on rows that nothing else reads; false for none.
{certify}
# What trials take of the machine. A device is a GPU, or without any a core.
resources:
  # GPUs per device; 0 uses CPU cores.
  gpu: 1
  # Trials that share a device: they train together, over one copy of the model. auto: as many as are fastest.
  trials_per_gpu: auto
"""
