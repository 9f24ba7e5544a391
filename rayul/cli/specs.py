"""Commands before a sweep: check a spec, write one, and know what it will cost."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayul.cli.app import AsJson, Document, Overrides, SpecFile, SpecFiles, Trials, Trust, app, spec_names
from rayul.cli.output import writing
from rayul.console import PlainConsole, show
from rayul.errors import InputError
from rayul.progress import ProgressBar

if TYPE_CHECKING:
    from rayul.spec import Spec


@app.command()
def validate(files: SpecFiles, json_: AsJson = False, set_: Overrides = None) -> Document:
    """Check specs: every problem of every file, with its line, before anything is spent."""
    from rayul.cli.documents import ValidateDocument, ValidSpec
    from rayul.plan.certificate import certificate_told
    from rayul.plan.row_problems import row_problems
    from rayul.plan.rows import hub_lines, local_sets, row_lines
    from rayul.plan.spec_warnings import spec_warnings
    from rayul.spec import Problem, SpecError, check_chunks, load_spec
    from rayul.spec.load import by_line
    from rayul.words import plural

    problems: list[Problem] = []
    valid = []
    for file in files:
        try:
            spec = load_spec(file, set_ or ())
            check_chunks(spec.data, spec.model.positions)
            sets = local_sets(spec)
            lines = [*spec.notices, *certificate_told(spec, sets), *row_lines(sets or {}), *hub_lines(spec)]
            lines += spec_warnings(spec)
        except SpecError as error:
            problems += sorted([*error.problems, *row_problems(file, set_ or ())], key=by_line)
        except InputError as error:  # of its rows or its model
            found = list(row_problems(file, set_ or ()))
            if error.message not in [problem.text for problem in found]:
                found.insert(0, Problem(str(file), "", error.message, error.hint))
            problems += found
        else:
            valid.append(ValidSpec.of(file, spec, lines))
            if not json_:
                searched = f"{plural(len(spec.space), 'hyper-parameter')} searched"
                show(f"{file}: ok ({searched}, {plural(spec.search.trials, 'trial')})")
                for line in lines:
                    show(f"{file}: {line}")
    if problems:
        raise SpecError(problems)
    return ValidateDocument(specs=valid) if json_ else None


@app.command()
def init(
    forget: Annotated[
        Path | None,
        typer.Option(help="Rows to forget: .jsonl, .json, .csv or .tsv (also .gz), .parquet, or a folder of these."),
    ] = None,
    retain: Annotated[Path | None, typer.Option(help="Rows to keep.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="The column that says whom or what a row is about, such as customer_id: its rows stay together."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that has to forget: a folder or a Hub id.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="Copy a shipped spec, such as ga, instead.", autocompletion=spec_names
        ),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(metavar="EXPORT", help="A certified export: the next request to forget, on that model."),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="With --after: how much es of the earlier rows may come back.")
    ] = 0.05,
    out: Annotated[Path, typer.Option(help="The spec to write.")] = Path("spec.yaml"),
) -> None:
    """Write a commented spec to start from: for your own rows, a copy of a shipped one, or the next request."""
    from rayul.plan.next_request import next_request
    from rayul.plan.starter import copied_spec, grouping_columns, starter_spec, why_uncertified

    if out.exists():
        raise InputError(f"{out} exists already", "choose another name with --out")
    if from_ is not None:
        if any(flag is not None for flag in (forget, retain, model, group, after)):
            raise InputError(
                "--from copies a spec as it is, with its own rows and model",
                "give --from alone and change data and model in the copy, or leave --from out",
            )
        text = copied_spec(from_, out)
    elif after is not None:
        if forget is None or model is not None or group is not None:
            raise InputError(
                "--after EXPORT takes --forget, and model and columns from that export",
                "give --after EXPORT --forget FILE, and --retain FILE for rows to keep of new groups",
            )
        made = next_request(after, forget, out, retain, margin)
        with writing(made.data, "choose another place with --out"):
            made.write()
        text = made.text
        for line in made.said:
            show(line, error=True)
    elif forget is None or retain is None:
        raise InputError(
            f"{'--forget' if forget is None else '--retain'} is missing",
            "give --forget and --retain for your own rows, --from ga to copy a shipped spec, or --after EXPORT",
        )
    else:
        text = starter_spec(out.stem, forget, retain, model, group)
        if why := why_uncertified(text):
            show(f"No certificate: {why}", error=True)
        if group is None and (columns := grouping_columns(forget, retain)):
            show(
                f"No group column: every row counts as independent. If {' or '.join(columns)} says whom or what a row "
                f"is about, repeat this with --group {shlex.quote(columns[0])}.",
                error=True,
            )
    with writing(out, "choose another place with --out"):
        out.write_text(text, encoding="utf-8")
    if from_ is None and after is None and model is None:
        show("Set model.path: the default testbed was not trained on your rows.", error=True)
    show(f"{out}\nnext: rayul plan {shlex.quote(str(out))}")


@app.command()
def schema(
    of: Annotated[
        str,
        typer.Argument(metavar="[WHAT]", help="spec, or what a command prints with --json: plan, status, error, ..."),
    ] = "spec",
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.")] = None,
) -> None:
    """Print the JSON Schema of a spec, for editors that complete and check YAML, or of what a command prints."""
    import json

    from rayul.cli.documents import DOCUMENTS, document_schema
    from rayul.spec.json_schema import spec_schema

    if of != "spec" and of not in DOCUMENTS:
        raise InputError(f"no schema of {of}", f"one of spec, {', '.join(DOCUMENTS)}")
    made = spec_schema() if of == "spec" else document_schema(of)
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False)
    if out is None:
        show(text)
        return
    with writing(out, "choose another place with --out"):
        out.write_text(f"{text}\n", encoding="utf-8")
    show(out)


@app.command()
def plan(
    file: SpecFile,
    trials: Trials = None,
    results: Annotated[Path, typer.Option(help="Folder of earlier sweeps: what pruning saved.")] = Path("results"),
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
    show_forget: Annotated[bool, typer.Option("--show-forget", help="Print samples of the forget set.")] = False,
    samples: Annotated[
        int | None,
        typer.Option(min=0, help="Rows of each other set to print; default: as report.samples says, none of your own."),
    ] = None,
    trust: Trust = False,
    json_: AsJson = False,
    set_: Overrides = None,
) -> Document:
    """Know before you spend: the space, the rows, what it will cost, what looks wrong. Writes nothing."""
    from rayul.plan import make_plan, plan_text
    from rayul.spec import load_spec

    asked = [f"search.trials={trials}"] if trials is not None else []
    spec = load_spec(file, [*(set_ or ()), *asked])
    check_code(file, spec, trust)
    console = PlainConsole(stderr=True)
    with ProgressBar(console) as bar:
        planned = make_plan(
            spec,
            results,
            address=address,
            show_forget=show_forget,
            samples=samples,
            testbed_progress=bar.update,
            say=bar.update,
            warn=lambda line: console.print(line, style="yellow", soft_wrap=True),
        )
    if json_:
        from rayul.cli.documents import PlanDocument

        return PlanDocument.of(planned)
    show(plan_text(planned))
    return None


def check_code(file: Path, spec: Spec, trust: bool, sends: bool = False) -> None:
    """A spec of the user's own may run its code. One from a results folder may be somebody else's."""
    from rayul.records.trusted import check_trusted, is_recorded
    from rayul.spec import spec_file

    if is_recorded(spec_file(file)):
        check_trusted(spec, file, trusted=trust, sends=sends)
