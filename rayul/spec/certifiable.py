"""Whether the data has groups enough for the certificate that a spec asks for."""

from __future__ import annotations

import math

from rayul.errors import InputError
from rayul.spec.certify import LEAST_GROUPS
from rayul.spec.data import Data, FolderData, TofuData
from rayul.spec.spec import Spec
from rayul.words import plural


def check_certifiable(spec: Spec, groups: int) -> None:
    """Raises InputError where the spec asks for a certificate, has a limit to certify, and its certify rows are of too
    few groups."""
    too_few = too_few_groups(spec.data, groups)
    if spec.certify is not None and too_few and any(c.metric.startswith("retain.") for c in spec.criteria):
        raise InputError(*too_few)


def too_few_groups(data: Data, groups: int) -> tuple[str, str] | None:
    """What is missing, and the way out; None where there are groups enough."""
    if groups >= LEAST_GROUPS:
        return None
    found = f"{plural(groups, 'group')} of certify rows" if groups else "no certify rows"
    return (
        f"the data has {found}, and a certificate takes {LEAST_GROUPS} groups at least",
        f"{_way_out(data)}, or set `certify: false`",
    )


def _way_out(data: Data) -> str:
    if isinstance(data, TofuData):
        return "leave data.split out" if data.split == "published" else "raise data.authors"
    if isinstance(data, FolderData):
        return f"put rows of {LEAST_GROUPS} groups into retain_certify.jsonl"
    if data.retain is None:
        return f"name rows of {LEAST_GROUPS} groups as data.retain_certify"
    if not data.split.certify:
        return "raise data.split.certify"
    least = math.ceil(LEAST_GROUPS / data.split.certify)
    return f"give data.retain about {least} groups of equal size, or raise data.split.certify"
