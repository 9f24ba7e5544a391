"""Commands while a sweep runs: run and resume it, ask how far it is, repair what it left."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayul.cli.app import AsJson, Document, Overrides, ResultsOf, Samples, SpecFile, Trials, Trust, app
from rayul.cli.output import is_driven
from rayul.cli.specs import check_code
from rayul.cli.stopped import STOPPED
from rayul.console import PlainConsole, show
from rayul.errors import RayulError
from rayul.progress import doing

if TYPE_CHECKING:
    from rayul.spec import Spec


@app.command()
def sweep(
    file: SpecFile,
    trials: Trials = None,
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
    samples: Annotated[
        int | None,
        typer.Option(min=0, help="Rows of each set to show before and after, in place of report.samples."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the report while the sweep runs, as `rayul watch` does.")
    ] = False,
    trust: Trust = False,
    set_: Overrides = None,
) -> None:
    """Run a sweep: baseline, trials under control, Pareto front, adapters, report."""
    from rayul.plan.spec_warnings import spec_warnings
    from rayul.spec import load_spec

    sampled = [f"report.samples={samples}"] if samples is not None else []
    overrides = [*(set_ or ()), *sampled]
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    spec = load_spec(file, overrides)
    check_code(file, spec, trust, sends=True)
    console = PlainConsole(stderr=True)
    for line in spec_warnings(spec):
        console.print(f"warning: {line}", style="yellow", soft_wrap=True)
    folder = _place(results, spec, resume, resume_if_any)
    again = _again(trials, results, name, [*(set_ or ()), *sampled])
    command = f"rayul sweep {shlex.quote(str(file))}"  # it is pasted into a shell
    with ExitStack() as stack:
        with doing(console, "loading ray and torch"):
            from rayul.sweep.connection import starting

            stack.enter_context(starting(address))  # beside the imports that follow
            from rayul.records.storage import is_url, joined
            from rayul.report import front_lines
            from rayul.sweep.last_words import ENDED, last_words
            from rayul.sweep.run import run_sweep
            from rayul.sweep.stop import Interrupted

        stack.enter_context(last_words(ENDED + f"{command} --resume-if-any{again}"))
        if watch:
            stack.enter_context(_watched(folder))
        try:
            summary = run_sweep(
                spec,
                folder,
                resume=resume or ("if any" if resume_if_any else False),
                address=address,
                console=console,
                trust=True,  # checked above: FILE is the user's own, or they trust it
            )
        except RayulError as error:  # said before Ray has ended, which may have to start first
            show(error, error=True)
            raise typer.Exit(error.exit_code) from None
        except Interrupted as stopped:
            show(f"stopped; continue with: {command} --resume{again}")
            if stopped.summary is not None:
                show(stopped.summary.report)
            raise typer.Exit(STOPPED) from None
        except KeyboardInterrupt:  # before the first trial, or after the last
            show(f"stopped; continue with: {command} --resume-if-any{again}")
            raise typer.Exit(STOPPED) from None
        show("\n".join(front_lines(summary)))
        for warning in summary.warnings:
            console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        show(f"hypervolume {summary.hypervolume:.4f}")
        if is_url(folder):
            show(joined(folder, summary.report.name))
        show(summary.report)


@app.command()
def status(folder: ResultsOf, json_: AsJson = False) -> Document:
    """Say what a sweep is doing, from another terminal: counts, front so far, what was pruned by what, time left."""
    from rayul.cli.documents import StatusDocument
    from rayul.records import JOURNAL
    from rayul.records.storage import local
    from rayul.report.status import read_status, status_lines
    from rayul.sweep.lock import holder

    with local(folder) as place:
        held = is_driven(folder, place)
        if held and not (place / JOURNAL).exists():
            if json_:
                return StatusDocument.starting(place.absolute().name)
            show(f"{place.absolute().name}: starting, the reference models are being measured")
            return None
        found = read_status(place, held, command=holder(place) if held else "")
    if json_:
        return StatusDocument.of(found)
    show("\n".join(status_lines(found)))
    return None


@app.command("watch")
def watch_(
    folder: ResultsOf,
    host: Annotated[
        str, typer.Option(help="Where to listen. On the loopback, an ssh tunnel reaches it, encrypted.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8765, or any that is free where it is taken.")
    ] = None,
    samples: Samples = None,
) -> None:
    """Serve the report of a sweep to a browser, made again as rows arrive, until Ctrl-C; also before the sweep begins
    and after it has ended. Nothing is written to its folder."""
    with _watched(folder, host, port, samples):
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            show("no longer served")


@contextmanager
def _watched(
    folder: str, host: str = "127.0.0.1", port: int | None = None, samples: int | None = None
) -> Iterator[None]:
    """Serve the report while the block runs, and say where."""
    from rayul.records.storage import is_url
    from rayul.report.serve import is_loopback, serving
    from rayul.report.watch import Watched

    # Whoever asks a bucket pays for each time.
    watched = Watched(folder, partial(is_driven, folder), every=30.0 if is_url(folder) else 5.0, samples=samples)
    with serving(watched, host, port) as address:
        show(f"{folder} is shown at {address}")
        if not is_loopback(host):
            show("what goes over the network is not encrypted: whoever can read it there has the token, and the rows")
        yield


@app.command()
def repair(folder: ResultsOf) -> None:
    """Set aside what is damaged in a results folder, and say what --resume will run again."""
    console = PlainConsole(stderr=True)
    with doing(console, "loading optuna"):
        from rayul.sweep.repair import repair as mend

    if not mend(folder, show):
        show("nothing to repair")


def _place(results: str, spec: Spec, resume: bool, resume_if_any: bool) -> str:
    """The results folder, or its URL. A folder that the sweep would refuse is refused here, before Ray is loaded."""
    from rayul.records import SPEC
    from rayul.records.storage import is_url, joined
    from rayul.sweep.folder import checked

    folder = joined(results, spec.name)
    place = Path(folder)
    if not is_url(folder) and not is_driven(folder, place):
        checked(place, spec, resume or (resume_if_any and (place / SPEC).exists()))
    return folder


def _again(trials: int | None, results: str, name: str | None, overrides: list[str] | None) -> str:
    flags = [f"--trials {trials}"] if trials is not None else []
    flags += [f"--results {shlex.quote(results)}"] if results != "results" else []
    flags += [f"--name {shlex.quote(name)}"] if name is not None else []
    flags += [f"--set {shlex.quote(o)}" for o in overrides or ()]
    return "".join(f" {flag}" for flag in flags)
