"""The `certify.attack` section: what is tried on the very weights that hold a certificate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rayul.spec.finalists import ATTACKS, AttackName
from rayul.spec.problems import refuse
from rayul.spec.section import Section, switched

UNTRAINED = tuple(name for name in ATTACKS if name != "relearn")
"""Attacks without fine-tuning. Relearning has its own settings here."""


class Rates(Section):
    """Learning rates of fine-tuning, by what is trained."""

    lora: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-4, 5e-4, 2e-3), strict=False)
    """Learning rates of a new adapter."""
    full: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(2e-5, 1e-4, 5e-4), strict=False)
    """Learning rates of all weights."""


class Attack(Section):
    """Attacks on certified weights themselves, with no new training of the recipe. Fine-tuning is tried in every
    combination of `rows`, `trains`, `optimizers`, `schedules` and learning rates, from the certified weights each
    time, and recorded as a curve: what has come back after so many steps."""

    points: int = Field(default=1, ge=1)
    """Number of certified points to attack, those that forgot most first."""
    budget: int = Field(default=20, ge=1)
    """Steps of fine-tuning."""
    every: int = Field(default=5, ge=1)
    """Steps between two measurements of what has come back."""
    rows: tuple[Literal["own", "related", "unrelated"], ...] = Field(
        default=("own", "related", "unrelated"), strict=False
    )
    """What the attacker trains on: a tenth of the forget rows (the others are judged), retain rows, general rows."""
    trains: tuple[Literal["lora", "full"], ...] = Field(default=("lora", "full"), strict=False)
    """What it trains: a new adapter of rank 16, or all weights."""
    optimizers: tuple[Literal["adamw", "muon"], ...] = Field(default=("adamw", "muon"), strict=False)
    """Optimisers of the fine-tuning."""
    schedules: tuple[Literal["constant", "linear", "cosine"], ...] = Field(default=("linear", "cosine"), strict=False)
    """Schedules of the learning rate up to the last step."""
    lr: Rates = Rates()
    """Learning rates by what is trained (below)."""
    attacks: tuple[AttackName, ...] = Field(default=UNTRAINED, strict=False)
    """Attacks without fine-tuning. Besides, the weights are always interpolated back to those before unlearning."""

    @model_validator(mode="after")
    def _relearn_is_rows(self) -> Attack:
        if "relearn" in self.attacks:
            raise refuse(
                "attacks: relearn is the attack that rows, trains, optimizers and lr describe", "leave it out here"
            )
        return self


AnyAttack = Annotated[Attack | None, BeforeValidator(switched)]
