"""Commands on the results of a sweep: report, export, certify, audit, compare."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from rayul.cli.app import AsJson, Document, ResultsOf, Samples, Trust, app
from rayul.cli.output import writing
from rayul.console import PlainConsole, show
from rayul.errors import InputError
from rayul.progress import doing

Figures = Annotated[
    str | None, typer.Option(metavar="FORMATS", help="Also figures for a paper: pdf, png, svg or several of them.")
]


def _formats(figures: str | None) -> list[str]:
    return [name.strip().lower() for name in figures.split(",")] if figures is not None else []


@app.command()
def report(
    folder: ResultsOf,
    figures: Figures = None,
    samples: Samples = None,
    refresh: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Write them again so often, until the sweep ends: for a shared disk."
        ),
    ] = None,
    json_: AsJson = False,
) -> Document:
    """(Re)make tables and report of a sweep from its records alone."""
    from rayul.records.storage import local
    from rayul.report import front_lines, summarise

    formats = _formats(figures)
    if refresh is not None:
        if json_:
            raise InputError("--refresh writes again and again, --json prints one document", "leave one of them out")
        _refresh(folder, samples, refresh)
    with local(folder, write=True) as place:
        with doing(PlainConsole(stderr=True), "writing the report"):
            summary = summarise(place, formats, samples)
        if json_:
            from rayul.cli.documents import ReportDocument
            from rayul.records.folder import load_records

            return ReportDocument.of(summary, load_records(place), bool(formats))
    show("\n".join(front_lines(summary)))
    show(summary.report)
    if formats:
        show(summary.folder / "figures")
    return None


def _refresh(folder: str, samples: int | None, seconds: int) -> None:
    """Write the report every so many seconds while a sweep writes to the folder; a browser that has it open loads it
    again. The caller writes the last page, which asks no browser to come back."""
    from rayul.records import JOURNAL
    from rayul.records.storage import is_url
    from rayul.report import summarise
    from rayul.sweep.lock import goes_on

    if is_url(folder):
        raise InputError("--refresh is for a folder", f"serve the report: rayul watch {shlex.quote(folder)}")
    place = Path(folder)
    alive = goes_on(place)
    while alive():
        if (place / JOURNAL).exists():
            show(summarise(place, samples=samples, refresh=seconds).report)
        time.sleep(seconds)


@app.command()
def export(
    folder: ResultsOf,
    trial: Annotated[str | None, typer.Option(help="A trial with a point on the front.")] = None,
    step: Annotated[int | None, typer.Option(help="Of that trial, the point at this step.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The point beyond which forgetting costs sharply more.")] = False,
    at: Annotated[
        str | None, typer.Option(help='The best point within a condition, e.g. "retain.es>=0.95*baseline".')
    ] = None,
    certified: Annotated[bool, typer.Option("--certified", help="The certified point that forgot most.")] = False,
    tau: Annotated[
        float | None, typer.Option(help="With --certified: certified for this one of several control.tau.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default NAME-TRIAL-STEP.")] = None,
    merge: Annotated[
        bool | None,
        typer.Option(
            "--merge/--no-merge",
            help="Also write the merged model; default: of certified points, if the base's licence allows it.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ID", help="Upload the export to a private Hub repository.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write a point, certified or of the front: adapter or whole model, tokenizer and model card, scored again."""
    from rayul.pareto import choose
    from rayul.pareto.best import best_point
    from rayul.pareto.front import front_of
    from rayul.records import SPEC
    from rayul.records.folder import load_records
    from rayul.records.request import REQUEST
    from rayul.records.storage import local
    from rayul.report.certified import best_certified
    from rayul.report.keep_rows import keep_line, to_keep
    from rayul.spec import load_spec

    if [trial is not None, knee, at is not None, certified].count(True) != 1:
        raise InputError("which point?", 'give one of --certified, --trial T, --knee, --at "retain.es>=0.95*baseline"')
    if step is not None and trial is None:
        raise InputError("--step belongs to --trial", "give --trial T --step S")
    if tau is not None and not certified:
        raise InputError("--tau belongs to --certified", "give --certified --tau 0.95")
    with local(folder) as place:  # stays where it is fetched to
        results = load_records(place)
    if trial is not None:
        chosen = choose.named(results, front_of(results), trial, step)
    elif at is not None:
        chosen = best_point(results, at)
    elif certified:
        chosen = best_certified(results, tau)
    else:
        chosen = choose.knee(front_of(results), results.baseline, results.objectives, results.limit_values)
    if not certified:
        choose.adapter_path(results, chosen)
    out = out or Path(f"{results.name}-{chosen.trial_id}-{chosen.step}")
    console = PlainConsole(stderr=True)
    with doing(console, "loading torch"):
        from rayul.sweep.export import check_repo_id, push, refuse_existing
        from rayul.sweep.export import export as write

    if push_to_hub is not None:
        check_repo_id(push_to_hub)
    refuse_existing(out)
    mixed = f", mixing {chosen.mixing:g}" if chosen.mixing != 1 else ""
    show(f"trial {chosen.trial_id} at step {chosen.step}{mixed}")
    with doing(console, "loading the model") as bar:
        difference = write(
            results,
            chosen,
            out,
            merge=merge,
            address=push_to_hub,
            testbed_progress=bar.update,
            say=bar.update,
            trust=trust,
        )
    if certified and merge is None and (out / "adapter_config.json").exists() and not (out / "merged").exists():
        show("wrote the adapter alone: the base has no known licence that allows passing it on; --merge merges anyway")
    beside = f" and {out / 'merged'}" if (out / "merged").exists() else ""
    show(f"exported {out}{beside}: loaded again, every metric is within {difference:.1g} of its record")
    if (out / REQUEST).exists() and (kept := to_keep(load_spec(place / SPEC, check_files=False).data)) is not None:
        show(keep_line(kept))
    if push_to_hub is not None:
        show(push(out, push_to_hub))


@app.command()
def certify(
    folder: ResultsOf,
    again: Annotated[
        bool, typer.Option("--again", help="Read the certify rows once more, at half of the last alpha.")
    ] = False,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Steps of fine-tuning in each attack; default: the spec's, or 20.")
    ] = None,
    points: Annotated[int | None, typer.Option(min=1, help="How many certified points to attack.")] = None,
    trust: Trust = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
    json_: AsJson = False,
) -> Document:
    """Certify points of the front on rows that nothing has read, where the sweep has not; then attack what is
    certified: what brings back how much of what was forgotten."""
    from rayul.records import SPEC
    from rayul.records.folder import load_records
    from rayul.records.storage import local
    from rayul.spec import load_spec

    with local(folder) as place:
        load_records(place)
    chosen = {"budget": budget, "points": points}
    overrides = [f"certify.attack.{key}={value}" for key, value in chosen.items() if value is not None]
    asked = load_spec(place / SPEC, overrides, check_files=False).certify if overrides else None
    console = PlainConsole(stderr=True)
    with doing(console, "loading ray and torch"):
        from rayul.sweep.certify import certify_sweep
    summary = certify_sweep(
        folder, again=again, attack=asked.attack if asked else None, address=address, console=console, trust=trust
    )
    results = load_records(summary.folder)
    if json_:
        from rayul.cli.documents import CertifyDocument

        return CertifyDocument.of(summary, results)
    show("\n".join([*summary.certified, *summary.attacked]))
    show(summary.report)
    return None


@app.command()
def audit(
    folder: ResultsOf,
    n: Annotated[int | None, typer.Option(min=1, help="Number of front points to audit.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of fresh seeds to train each with.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Points beyond which forgetting costs sharply more.")] = False,
    at: Annotated[
        str | None, typer.Option(help='Only points within a condition, e.g. "retain.es>=0.95*baseline".')
    ] = None,
    point: Annotated[list[str] | None, typer.Option(help="These points: a trial, or trial-step. Repeat it.")] = None,
    attacks: Annotated[str | None, typer.Option(help="Names, separated by commas, or none; default: all.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Names, separated by commas; default: all.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
    trust: Trust = False,
) -> None:
    """Retrain and attack the best points: fresh seeds, unread rows, attacks, and a verdict on each."""
    from rayul.records import SPEC
    from rayul.records.folder import load_records
    from rayul.records.storage import local
    from rayul.spec import Limit, load_spec

    with local(folder) as place:
        load_records(place)
    chosen: dict[str, object] = {"n": n, "seeds": seeds, "points": point, "choose": "knee" if knee else None}
    within = None if at is None else Limit.parse(at)
    chosen["within"] = within and {"metric": within.metric, within.key: within.to_yaml()}
    chosen["attacks"] = None if attacks is None else [name for name in attacks.split(",") if name != "none"]
    chosen["metrics"] = None if metrics is None else metrics.split(",")
    overrides = [f"finalists.{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]
    wanted = load_spec(place / SPEC, overrides, check_files=False).finalists
    console = PlainConsole(stderr=True)
    with doing(console, "loading ray and torch"):
        from rayul.audit.verdict import verdict_lines
        from rayul.sweep.audit import audit_sweep
        from rayul.sweep.last_words import ENDED, last_words
    with last_words(ENDED + shlex.join(["rayul", *sys.argv[1:]])):
        summary = audit_sweep(folder, wanted, address=address, console=console, trust=trust)
    show("\n".join(verdict_lines(summary.folder)))
    show(summary.report)


@app.command()
def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR/NAME...", help="The results folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    figures: Figures = None,
    json_: AsJson = False,
) -> Document:
    """Compare sweeps: their fronts on one scale, who is ahead where, what the seeds decide, settings that differ."""
    from rayul.records.storage import local
    from rayul.report.compare import load_comparison
    from rayul.report.compare_figures import write_comparison_figures
    from rayul.report.compare_page import write_comparison
    from rayul.report.compare_text import comparison_lines
    from rayul.report.figures import check_formats

    formats = _formats(figures)
    if formats:
        check_formats(formats)
    beside, drawn = out.with_name(f"{out.stem}-figures"), list[Path]()
    with doing(PlainConsole(stderr=True), "reading the records") as bar:
        with ExitStack() as stack:
            comparison = load_comparison([stack.enter_context(local(folder)) for folder in folders])
        bar.update("writing the comparison")
        with writing(out, "choose another file with --out"):
            write_comparison(comparison, out)
            if formats:
                drawn = write_comparison_figures(comparison, beside, formats)
    if json_:
        from rayul.cli.documents import CompareDocument

        return CompareDocument.of(comparison, out, beside if formats else None)
    show("\n".join(comparison_lines(comparison)))
    for written in (out, *drawn):
        show(written)
    return None
