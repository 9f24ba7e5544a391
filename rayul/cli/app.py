"""The application of Typer, and the arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model (model.trust_remote_code).")
]
ResultsOf = Annotated[
    str, typer.Argument(metavar="DIR/NAME", help="The results folder of a sweep, or its URL (s3://, gs://).")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that the results folder carries, from now on without asking.")
]
