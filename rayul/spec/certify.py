"""The `certify` section: how many points of the front get a certificate, and with which confidence."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from rayul.spec.attack import AnyAttack, Attack
from rayul.spec.section import Section, switched

LEAST_GROUPS = 5
"""Certify groups below which nothing is certified: a t bound over four groups or fewer is too wide to be of use."""


class Certify(Section):
    """What is certified at the end of a sweep, on rows that nothing else has read."""

    points: int = Field(default=5, ge=1)
    """Maximum number of points, spread over the front. They share the confidence: with more, each has to clear more.
    With a list of control.tau it is the best point at each share instead."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence that all certified points together keep the limits on new groups."""
    attack: AnyAttack = Attack()
    """The attacks of `rayul certify` on certified weights; false for none."""


AnyCertify = Annotated[Certify | None, BeforeValidator(switched, json_schema_input_type=Certify | bool | None)]
