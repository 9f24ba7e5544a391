"""The model card of an exported point: what was forgotten (never its content), how, how well, and what that shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from rayul.pareto.held_out import on_report
from rayul.pareto.targets import limits_of
from rayul.records import Evaluation, adapter_name
from rayul.records.folder import SweepRecords
from rayul.records.recall import recall_of
from rayul.report.attacked import told_of
from rayul.report.certified import Certified, bound, certify_units, equal_groups, sentence, value
from rayul.report.evidence import evidence
from rayul.report.keep_rows import to_keep
from rayul.report.recalled import Recalled, cells, recalled_lines, sets_of, unnamed
from rayul.report.verdict_of import VERDICTS, audited
from rayul.spec import PACKAGED, TESTBED, UPDATES, Data, Evaluate, FolderData, Model, Source, Spec, TofuData, dump_yaml
from rayul.spec.metrics import ATTACKED
from rayul.spec.source import find, looks_local
from rayul.words import measured, percent

ASSETS = Path(__file__).parent / "assets"
METHOD_SECTIONS = ("method", "update", *UPDATES, "training", "control")
"""The sections of a spec that say how a model was made; it has that of its own update."""
MOST_GROUPS_IN_CARD = 20
"""Groups of a set in its table, the worst first."""


@dataclass(frozen=True)
class Forgotten:
    """What a card says of the forgotten rows: the set's name, their number, and the SHA-256 of them all."""

    name: str
    rows: int
    sha256: str


def set_name(data: Data) -> str:
    """The forget set in words, without a path of this machine."""
    if isinstance(data, TofuData):
        return f"TOFU {data.forget}"
    if isinstance(data, FolderData):
        return (
            "the forget set of rayul's testbed" if data.folder == TESTBED else f"{Path(data.folder).name}/forget.jsonl"
        )
    source: Source = data.forget
    if looks_local(source.path):
        return Path(source.path).name
    return " ".join([source.path, *([source.name] if source.name else []), source.split])


def model_card(
    results: SweepRecords,
    spec: Spec,
    e: Evaluation,
    forgotten: Forgotten,
    *,
    address: str,
    after: Mapping[str, tuple[float, float]],
    difference: float,
    adapter: bool,
    merged: bool,
    certificate: Certified | None = None,
) -> str:
    """The README.md of an exported adapter or whole model.

    spec: the sweep's, as written. address: what `from_pretrained` is given. after: value and standard error by metric,
    as measured after reloading; what was not measured again is taken from the record. difference: the largest one
    between the two. certificate: where this very point is certified.
    """
    row = results.with_report(e)
    row = replace(
        row,
        metrics=row.metrics | {key: value for key, (value, _) in after.items()},
        stderr=row.stderr | {key: error for key, (_, error) in after.items()},
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=False,  # noqa: S701 (Markdown; what could break a table goes through `cell`)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {"certificate_value": value, "certify_units": certify_units, "bound": bound}
    environment.filters["percent"] = percent
    environment.filters["cell"] = lambda text: " ".join(str(text).replace("|", "\\|").split())
    trial = spec.at(e.params).resolved()
    recall = recall_of(results.folder, e)
    recalled = None if recall is None else unnamed(Recalled("", e, sets_of(recall), ()))
    return environment.get_template("card.md.j2").render(
        title=Path(address).name,
        e=e,
        address=address,
        base=model_name(spec),
        base_on_hub=_on_hub(spec.model),
        licence=None if (packaged := PACKAGED.get(spec.model.path)) is None else packaged.licence,
        template=spec.model.template if spec.model.template != "chat" else None,
        forgotten=forgotten,
        to_keep=None if certificate is None else to_keep(spec.data),
        recalled=[] if recalled is None else recalled.sets,
        recalled_lines=[] if recalled is None else recalled_lines(recalled),
        cells=cells,
        most_groups=MOST_GROUPS_IN_CARD,
        metrics=[_row(results, spec.evaluate, row, key) for key in row.metrics],
        notes=results.adapters[e.key].report_notes if e.key in results.adapters else (),
        oracle=results.oracle is not None,
        held_out=held_out(results, row),
        basis=evidence(results.baseline.rows | e.rows, results.baseline.groups | e.groups),
        difference=difference,
        adapter=adapter,
        merged=merged,
        certificate=certificate,
        certified=None if certificate is None else sentence(certificate),
        attacked=told_of(results, adapter_name(e)) if certificate is not None else [],
        steered=sorted({key.partition(".")[0] for key in row.metrics} & set(ATTACKED)),
        audit=audited(results, e),
        verdicts=VERDICTS,
        equal_groups=[] if certificate is None else equal_groups(certificate),
        settings=dump_yaml({name: trial[name] for name in METHOD_SECTIONS if name in trial}),
        trials=len(results.trials),
        evaluations=results.trained,
        provenance=dump_yaml({"sweep": results.name, **results.manifest.plain()}),
    )


def model_name(spec: Spec) -> str:
    """The base model as others know it: the Hub id with its revision, or the folder's name, and its GGUF file."""
    model = spec.model
    if model.path in PACKAGED:
        packaged = PACKAGED[model.path]
        return f"{packaged.hub_id} (as quantised in the package {packaged.install[0]}, {packaged.licence})"
    if model.path == TESTBED:
        return "rayul's testbed model"
    name = Path(model.path).expanduser().name if _is_folder(model.path) else model.path
    name = f"{name}@{model.revision}" if model.revision else name
    return f"{name} ({model.gguf_file})" if model.gguf_file else name


def _on_hub(model: Model) -> str:
    """The id under which the Hub has the base; "" where it need not have it."""
    if model.path in PACKAGED:
        return PACKAGED[model.path].hub_id
    return "" if model.path == TESTBED or _is_folder(model.path) else model.path


def _is_folder(path: str) -> bool:
    return looks_local(path) or find(path) is not None


def held_out(results: SweepRecords, e: Evaluation) -> list[str]:
    """Whether the limits on retain rows also hold on the retain-report rows, which took no part in the search; one
    sentence per limit, none where those rows were not measured."""
    said = []
    for limit in limits_of(results, e):
        there = on_report(limit, results.baseline)
        if there is not None and there.metric in e.metrics:
            kept = "kept" if there.keeps(e.metrics[there.metric]) else "**not kept**"
            said.append(f"the limit {limit} ({there}) is {kept}: {there.metric} is {measured(e, there.metric)}")
    return said


def _row(results: SweepRecords, measures: Evaluate, e: Evaluation, key: str) -> dict[str, str]:
    held = [limit.fixed(results.baseline.metrics) for limit in limits_of(results, e) if limit.metric == key]
    return {
        "metric": key,
        "better": _better(measures, key),
        "before": measured(results.baseline, key),
        "after": measured(e, key),
        "oracle": "" if results.oracle is None else measured(results.oracle, key),
        "limit": ", ".join(str(limit).removeprefix(f"{key} ") for limit in held),
    }


def _better(measures: Evaluate, key: str) -> str:
    """Which way is better; "" for a metric that is not known any more."""
    set_name, _, name = key.partition(".")
    metric = measures.of(name)
    return "" if metric is None else metric.better_on(set_name)
