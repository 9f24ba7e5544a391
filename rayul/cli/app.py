"""The application of Typer, and the arguments that several commands take."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import Annotated

import typer

from rayul.cli.stopped import Commands


def spec_names(incomplete: str) -> list[str]:
    """What a shell completes a spec to: the names of shipped specs, YAML files and folders."""
    from rayul.spec.shipped import shipped_specs

    folder, _, start = incomplete.rpartition("/")
    place = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".")
    entries = sorted(place.glob(f"{escape(start)}*")) if place.is_dir() else []
    files = [str(entry) for entry in entries if entry.suffix in (".yaml", ".yml")]
    folders = [f"{entry}/" for entry in entries if entry.is_dir() and not entry.name.startswith((".", "_"))]
    return [*(name for name in shipped_specs() if name.startswith(incomplete)), *files, *folders]


app = typer.Typer(
    name="rayul",
    cls=Commands,
    help="Sweep the hyper-parameters of LLM unlearning under control: what is forgotten, at which cost in utility.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecFile = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC", help="A YAML file, or the name of a shipped spec, such as ga.", autocompletion=spec_names
    ),
]
SpecFiles = Annotated[
    list[Path],
    typer.Argument(metavar="SPEC...", help="YAML files, or names of shipped specs.", autocompletion=spec_names),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.steps=30.")
]
Trials = Annotated[int | None, typer.Option(min=1, help="Number of trials, in place of search.trials.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model (model.trust_remote_code).")
]
ResultsOf = Annotated[
    str, typer.Argument(metavar="DIR/NAME", help="The results folder of a sweep, or its URL (s3://, gs://).")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that the results folder carries, from now on without asking.")
]
Samples = Annotated[
    int | None,
    typer.Option(min=0, help="Maximum number of recorded rows of each set to show; 0 for none, default: all."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, errors included, and nothing else (docs/scripting.md).")
]
Document = object
"""What a command with --json returns: one of rayul/cli/documents.py, else None. (Typer evaluates the annotations, and
these classes are imported when they are needed.)"""
