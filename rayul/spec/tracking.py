"""The `tracking` section: which experiment trackers also hear of a sweep, through Ray's own callbacks."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from rayul.spec.problems import refuse
from rayul.spec.section import Section, switched

_SECRET = re.compile(
    r"""
    ^\w[\w+.-]*://[^/@]*:[^/@]*@    # user:password@
    | ^https?://[^/?\#]*@             # token@
    | [?&;\#][^=&;]*(token|password|passwd|pwd|secret|key|signature|credential)[^=&;]*=  # ?access_token=
    """,
    re.VERBOSE | re.IGNORECASE,
)


def refuse_secret(address: str, hint: str) -> None:
    """Refuse an address with a password or token in it: the spec is kept with the results."""
    if _SECRET.search(address):
        raise refuse("holds a password or token", f"the spec is kept with the results: {hint}")


def _without_secret(uri: str) -> str:
    refuse_secret(uri, "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    return uri


class MLflow(Section):
    """An MLflow experiment, a run of it for each trial."""

    uri: Annotated[str, AfterValidator(_without_secret)] | None = None
    """The tracking server or store, e.g. http://host:5000 or sqlite:///mlflow.db; null for MLFLOW_TRACKING_URI, or
    MLflow's own default."""
    experiment: str | None = None
    """Name of the experiment; null for the sweep's."""


class WandB(Section):
    """A Weights & Biases project, a run of it for each trial. The key is WANDB_API_KEY's, and WANDB_MODE=offline needs
    none."""

    project: str = "rayul"
    group: str | None = None
    """Group of the runs; null for the sweep's name."""
    entity: str | None = None


class Tracking(Section):
    """A plain list in the YAML names those to use as they are: tracking: [tensorboard, mlflow]."""

    tensorboard: bool = False
    """Event files of each trial, in tensorboard/ of the results."""
    mlflow: Annotated[MLflow | None, BeforeValidator(switched, json_schema_input_type=MLflow | bool | None)] = None
    wandb: Annotated[WandB | None, BeforeValidator(switched, json_schema_input_type=WandB | bool | None)] = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return dict.fromkeys(value, True)
        return value

    @property
    def names(self) -> list[str]:
        """Those that are on."""
        return [name for name in type(self).model_fields if getattr(self, name)]
