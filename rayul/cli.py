"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayul import __version__
from rayul.console import PlainConsole, show
from rayul.errors import InputError, RayulError

if TYPE_CHECKING:
    from rayul.spec import Spec

app = typer.Typer(
    name="rayul",
    help="Sweep the hyper-parameters of LLM unlearning under control: what is forgotten, at which cost in utility.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="The spec, e.g. search_spaces/ga.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.steps=30.")
]
_OTHER_OUTPUT = "choose another file with --output"

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model (model.trust_remote_code).")
]
ResultsOf = Annotated[
    str, typer.Argument(metavar="DIR/NAME", help="The results folder of a sweep, or its URL (s3://, gs://).")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that the results folder carries, from now on without asking.")
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        show(f"rayul {__version__}")
        raise typer.Exit


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...")], set_: Overrides = None) -> None:
    """Check specs: every problem of every file, with its line, before anything is spent."""
    from rayul.plan.certificate import certifiable
    from rayul.spec import load_spec
    from rayul.words import plural

    problems = []
    for file in files:
        try:
            spec = load_spec(file, set_ or ())
            lines = [*spec.notices, *certifiable(spec)]
        except InputError as error:
            problems.append(str(error))
        else:
            searched = f"{plural(len(spec.space), 'hyper-parameter')} searched"
            show(f"{file}: ok ({searched}, {plural(spec.search.trials, 'trial')})")
            for line in lines:
                show(f"{file}: {line}")
    if problems:
        raise InputError("\n".join(problems))


@app.command()
def init(
    forget: Annotated[Path, typer.Option(help="Rows to forget: .jsonl, .json (one object per line) or .parquet.")],
    retain: Annotated[Path, typer.Option(help="Rows to keep, in the same columns.")],
    model: Annotated[str | None, typer.Option(help="The model that has to forget: a folder or a Hub id.")] = None,
    out: Annotated[Path, typer.Option(help="The spec to write.")] = Path("spec.yaml"),
) -> None:
    """Write a commented spec to start from, for your own rows."""
    from rayul.plan.starter import starter_spec

    if out.exists():
        raise InputError(f"{out} exists already", "choose another name with --out")
    text = starter_spec(out.stem, forget, retain, model)
    with _writing(out, "choose another place with --out"):
        out.write_text(text, encoding="utf-8")
    if model is None:
        show("Set model.path: the default testbed was not trained on your rows.", error=True)
    show(f"{out}\nnext: rayul plan {shlex.quote(str(out))}")


@app.command()
def plan(
    file: SpecFile,
    results: Annotated[Path, typer.Option(help="Folder of earlier sweeps: what pruning saved.")] = Path("results"),
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
    show_forget: Annotated[bool, typer.Option("--show-forget", help="Also print samples of the forget set.")] = False,
    trust: Trust = False,
    set_: Overrides = None,
) -> None:
    """Know before you spend: the space, the rows, what it will cost, what looks wrong. Writes nothing."""
    from rayul.plan import make_plan, plan_text
    from rayul.spec import load_spec

    spec = load_spec(file, set_ or ())
    _check_code(file, spec, trust)
    console = PlainConsole(stderr=True)
    with _ProgressBar(console) as bar:
        planned = make_plan(
            spec,
            results,
            address=address,
            show_forget=show_forget,
            testbed_progress=bar.update,
            say=lambda line: console.print(f"{line} ...", style="dim"),
            warn=lambda line: console.print(line, style="yellow", soft_wrap=True),
        )
    show(plan_text(planned))


@app.command()
def sweep(
    file: SpecFile,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials, in place of search.trials.")] = None,
    results: Annotated[
        str, typer.Option(metavar="DIR", help="Folder that holds the results of sweeps, or a URL: s3://, gs://.")
    ] = "results",
    name: Annotated[str | None, typer.Option(help="Name of the results folder, in place of the spec's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep that is in the results folder.")] = False,
    resume_if_any: Annotated[
        bool,
        typer.Option("--resume-if-any", help="Continue where there is one, else begin: for jobs that are requeued."),
    ] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
    trust: Trust = False,
    set_: Overrides = None,
) -> None:
    """Run a sweep: baseline, trials under control, Pareto front, adapters, report."""
    from rayul.spec import load_spec

    overrides = list(set_ or ())
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    spec = load_spec(file, overrides)
    _check_code(file, spec, trust)
    console = PlainConsole(stderr=True)
    with console.status("loading ray and torch") if console.is_terminal else nullcontext():
        from rayul.records.storage import is_url, joined
        from rayul.report import front_lines
        from rayul.sweep.last_words import ENDED, last_words
        from rayul.sweep.run import run_sweep
        from rayul.sweep.stop import Interrupted

    folder = joined(results, spec.name)
    again = _again(trials, results, name, set_)
    try:
        with _ProgressBar(console) as bar, last_words(ENDED + f"rayul sweep {file} --resume-if-any{again}"):
            summary = run_sweep(
                spec,
                folder,
                resume=resume or ("if any" if resume_if_any else False),
                address=address,
                console=console,
                testbed_progress=bar.update,
                trust=True,  # checked above: FILE is the user's own, or they trust it
            )
    except Interrupted as stopped:
        show(f"stopped; continue with: rayul sweep {file} --resume{again}")
        if stopped.summary is not None:
            show(stopped.summary.report)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:  # before the first trial, or after the last
        show(f"stopped; continue with: rayul sweep {file} --resume-if-any{again}")
        raise typer.Exit(130) from None
    show("\n".join(front_lines(summary)))
    for warning in summary.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    show(f"hypervolume {summary.hypervolume:.4f}")
    if is_url(folder):
        show(joined(folder, summary.report.name))
    show(summary.report)


@app.command()
def report(
    folder: ResultsOf,
    figures: Annotated[
        str | None, typer.Option(metavar="FORMATS", help="Also figures for a paper: pdf, png, svg or several of them.")
    ] = None,
) -> None:
    """(Re)make tables and report of a sweep from its records alone."""
    from rayul.records.storage import local
    from rayul.report import front_lines, summarise

    formats = [name.strip().lower() for name in figures.split(",")] if figures is not None else []
    with local(folder, write=True) as place:
        summary = summarise(place, formats)
    show("\n".join(front_lines(summary)))
    show(summary.report)
    if formats:
        show(summary.folder / "figures")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a PEFT adapter, a Hub id or testbed.")],
    data: Annotated[
        str, typer.Option(help="Rows: testbed, a data folder, a file (as rows to forget), or a spec's `data` section.")
    ],
    oracle: Annotated[str | None, typer.Option(help="A model trained without the forget rows.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Names, separated by commas; default: all.")] = None,
    template: Annotated[str | None, typer.Option(help='"chat", or a text with {question} and {answer}.')] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "float32",
    trust_remote_code: TrustRemoteCode = False,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows per set.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the numbers here, as JSON.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help='Of the model, e.g. model.system="Be brief."')
    ] = None,
) -> None:
    """Score a model or adapter that you already have, with the full metric suite."""
    from rayul.records.text_note import noted_text
    from rayul.spec import parse_spec

    if output is not None and not (os.access(output, os.W_OK) or _takes_files(output.parent)):
        raise InputError(f"cannot write {output}: no folder or file that can be written", _OTHER_OUTPUT)
    text = noted_text(Path(model)) if template is None else {"template": template}
    shared = {"dtype": dtype, "trust_remote_code": trust_remote_code} | text
    single = Path(data).expanduser().is_file()
    source = json.dumps(str(Path(data).expanduser().absolute().parent)) if single else data  # a file is read below
    overrides = [f"model={json.dumps({'path': model} | shared)}", f"data={source}"]
    overrides += [f"oracle={json.dumps({'path': oracle} | shared)}"] if oracle else []
    overrides += [f"evaluate.final=[{metrics}]"] if metrics else []
    overrides += set_ or []
    spec = parse_spec("name: evaluate\nmethod: ga\ntraining: {lr: 1e-3}", overrides, source="rayul evaluate")
    console = PlainConsole(stderr=True)
    for line in spec.notices:
        console.print(line, soft_wrap=True)
    with console.status("loading torch") if console.is_terminal else nullcontext():
        from rayul.testbed import with_testbed
        from rayul.unlearn.data import load_sets, read_rows
        from rayul.unlearn.model import load_model
        from rayul.unlearn.own import own_metrics
        from rayul.unlearn.suite import evaluate_model
        from rayul.unlearn.task import spaced
        from rayul.unlearn.template import Template, text_notices

    with _ProgressBar(console) as bar:
        spec = with_testbed(spec, bar.update)
    own = own_metrics(spec.evaluate)
    found = {"forget": read_rows(Path(data).expanduser())} if single else load_sets(spec.data)
    if single and not found["forget"]:
        raise InputError(f"{data} has no rows", "name a file with rows as --data")
    sets = {key: tuple(spaced(list(rows), max_rows)) for key, rows in found.items()}
    loaded, tokenizer = load_model(spec.model)
    for line in text_notices(tokenizer, Template.of(spec.model)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    compared = load_model(spec.oracle)[0] if spec.oracle else None
    with console.status("measuring") as status:
        result = evaluate_model(
            loaded,
            tokenizer,
            sets,
            Template.of(spec.model),
            compared,
            spec.evaluate.final or None,
            progress=lambda key: status.update(f"measuring {key}"),
            own=own,
        )
    PlainConsole().print(result.table())
    if output is not None:
        with _writing(output, _OTHER_OUTPUT):
            output.write_text(result.to_json() + "\n", encoding="utf-8")
        show(output)


@app.command("testbed")
def write_testbed_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Train on these rows instead: a folder of TOFU, a data folder, or JSONL/Parquet files."),
    ] = None,
    authors: Annotated[int | None, typer.Option(help="Number of TOFU's 200 authors to use.")] = None,
    forget: Annotated[str, typer.Option(help="TOFU's forget split.")] = "forget10",
    allow_unmemorised: Annotated[
        bool, typer.Option("--allow-unmemorised", help="Keep a target that did not memorise the rows to forget.")
    ] = False,
) -> None:
    """Write the testbed, or a target model trained on your own rows, as plain Hugging Face folders and JSONL files."""
    from rayul.testbed import write_testbed, write_testbed_from_data

    console = PlainConsole(stderr=True)
    with _ProgressBar(console) as bar, _writing(folder, "name another folder"):
        if data:
            write_testbed_from_data(
                folder, data, bar.update, authors=authors, forget=forget, allow_unmemorised=allow_unmemorised
            )
        else:
            write_testbed(folder, bar.update)
    show(folder)


@app.command()
def status(folder: ResultsOf) -> None:
    """Say what a sweep is doing, from another terminal: counts, front so far, what was pruned by what, time left."""
    from rayul.records import JOURNAL
    from rayul.records.storage import is_url, local, owned
    from rayul.report.status import read_status, status_lines
    from rayul.sweep.lock import is_held

    with local(folder) as place:
        held = is_held(place) or (is_url(folder) and owned(folder))
        if held and not (place / JOURNAL).exists():
            show(f"{place.absolute().name}: starting, the reference models are being measured")
            return
        show("\n".join(status_lines(read_status(place, held))))


@app.command()
def repair(folder: ResultsOf) -> None:
    """Set aside what is damaged in a results folder, and say what --resume will run again."""
    console = PlainConsole(stderr=True)
    with console.status("loading optuna") if console.is_terminal else nullcontext():
        from rayul.sweep.repair import repair as mend

    if not mend(folder, show):
        show("nothing to repair")


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
    out: Annotated[Path | None, typer.Option(help="Folder to write; default NAME-TRIAL-STEP.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Also write the merged model, in merged/.")] = False,
    push_to_hub: Annotated[str | None, typer.Option(metavar="ID", help="Then upload, as a private repository.")] = None,
    trust: Trust = False,
) -> None:
    """Write a point, certified or of the front: adapter or whole model, tokenizer and model card, scored again."""
    from rayul.pareto import choose
    from rayul.pareto.best import best_point
    from rayul.pareto.front import front_of
    from rayul.records.folder import load_records
    from rayul.records.storage import local
    from rayul.report.certified import best_certified

    if [trial is not None, knee, at is not None, certified].count(True) != 1:
        raise InputError("which point?", 'give one of --certified, --trial T, --knee, --at "retain.es>=0.95*baseline"')
    if step is not None and trial is None:
        raise InputError("--step belongs to --trial", "give --trial T --step S")
    with local(folder) as place:  # stays where it is fetched to
        results = load_records(place)
    if trial is not None:
        chosen = choose.named(results, front_of(results), trial, step)
    elif at is not None:
        chosen = best_point(results, at)
    elif certified:
        chosen = best_certified(results)
    else:
        chosen = choose.knee(front_of(results), results.baseline, results.objectives, results.limit_values)
    if not certified:
        choose.adapter_path(results, chosen)
    out = out or Path(f"{results.name}-{chosen.trial_id}-{chosen.step}")
    console = PlainConsole(stderr=True)
    with console.status("loading torch") if console.is_terminal else nullcontext():
        from rayul.sweep.export import check_repo_id, push, refuse_existing
        from rayul.sweep.export import export as write

    if push_to_hub is not None:
        check_repo_id(push_to_hub)
    refuse_existing(out)
    mixed = f", mixing {chosen.mixing:g}" if chosen.mixing != 1 else ""
    show(f"trial {chosen.trial_id} at step {chosen.step}{mixed}")
    with _ProgressBar(console) as bar, console.status("loading the model") as working:
        difference = write(
            results,
            chosen,
            out,
            merge=merge,
            address=push_to_hub,
            testbed_progress=bar.update,
            say=working.update,
            trust=trust,
        )
    show(f"exported {out}: loaded again, every metric is within {difference:.1g} of its record")
    if push_to_hub is not None:
        show(push(out, push_to_hub))


@app.command()
def certify(
    folder: ResultsOf,
    again: Annotated[
        bool, typer.Option("--again", help="Read certify rows again that have been read, at half of the last alpha.")
    ] = False,
    trust: Trust = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto or host:port (also RAY_ADDRESS).")] = None,
) -> None:
    """Certify points of the front: how much of each keeps the limits on new groups, on rows that nothing has read."""
    from rayul.records.folder import load_records
    from rayul.records.storage import local

    with local(folder) as place:
        load_records(place)
    console = PlainConsole(stderr=True)
    with console.status("loading ray and torch") if console.is_terminal else nullcontext():
        from rayul.sweep.certify import certify_sweep
    with _ProgressBar(console) as bar:
        summary = certify_sweep(
            folder, again=again, address=address, console=console, testbed_progress=bar.update, trust=trust
        )
    show("\n".join(summary.certified))
    show(summary.report)


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
    with console.status("loading ray and torch") if console.is_terminal else nullcontext():
        from rayul.audit.verdict import verdict_lines
        from rayul.sweep.audit import audit_sweep
        from rayul.sweep.last_words import ENDED, last_words
        from rayul.sweep.stop import Interrupted
    again = shlex.join(["rayul", *sys.argv[1:]])
    try:
        with _ProgressBar(console) as bar, last_words(ENDED + again):
            summary = audit_sweep(
                folder, wanted, address=address, console=console, testbed_progress=bar.update, trust=trust
            )
    except Interrupted:
        show(f"stopped; the same command goes on: {again}")
        raise typer.Exit(130) from None
    show("\n".join(verdict_lines(summary.folder)))
    show(summary.report)


@app.command()
def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR/NAME...", help="The results folders of sweeps.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Compare sweeps: their fronts on one scale, who is ahead where, what the seeds decide, settings that differ."""
    from rayul.records.storage import local
    from rayul.report.compare import load_comparison
    from rayul.report.compare_page import write_comparison
    from rayul.report.compare_text import comparison_lines

    with ExitStack() as stack:
        comparison = load_comparison([stack.enter_context(local(folder)) for folder in folders])
    with _writing(out, "choose another file with --out"):
        write_comparison(comparison, out)
    show("\n".join(comparison_lines(comparison)))
    show(out)


def _takes_files(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


@contextmanager
def _writing(place: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RayulError(f"cannot write {error.filename or place}: {error.strerror or error}", way_out) from error


class _ProgressBar:
    """A bar for work that says how far it is; lines where there is no terminal. Nothing until the first word."""

    def __init__(self, console: PlainConsole) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
        )
        self.task: object = None
        self.said = -1

    def update(self, message: str, done: float) -> None:
        if not self.console.is_terminal:
            if int(done * 10) > self.said:
                self.said = int(done * 10)
                self.console.print(f"{message} ({done:.0%})", soft_wrap=True)
            return
        if self.task is None:
            self.task = self.bar.add_task(message, total=1.0)
            self.bar.start()
        self.bar.update(self.task, description=message, completed=done)  # type: ignore[arg-type]
        if done >= 1:
            self.bar.stop()

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _check_code(file: Path, spec: Spec, trust: bool) -> None:
    """A spec of the user's own may run its code. One from a results folder may be somebody else's."""
    from rayul.records.trusted import check_trusted, is_recorded

    if is_recorded(file):
        check_trusted(spec, file, trusted=trust)


def _again(trials: int | None, results: str, name: str | None, overrides: list[str] | None) -> str:
    flags = [f"--trials {trials}"] if trials is not None else []
    flags += [f"--results {shlex.quote(results)}"] if results != "results" else []
    flags += [f"--name {name}"] if name is not None else []
    flags += [f"--set {shlex.quote(o)}" for o in overrides or ()]
    return "".join(f" {flag}" for flag in flags)


_PLAIN = {"±": "+-", "–": "-", "→": "->", "≥": ">=", "≤": "<=", "×": "x"}


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What a terminal or a log file in ASCII cannot show, in letters that it can: no result is worth less for that."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in lost), error.end


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run a command. Exit code: 0 done, 2 bad input, 1 anything else, 130 on Ctrl-C and SIGTERM."""
    codecs.register_error("rayul", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rayul")
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except RayulError as error:
        show(error, error=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more at its end
        print(f"cannot write the output: {error.strerror}; what the command made is kept", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        show("stopped", error=True)
        sys.exit(130)
