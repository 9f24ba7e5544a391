"""Which limits a spec can certify, and whether the data has groups enough for that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rayul.errors import InputError
from rayul.spec.certify import LEAST_GROUPS
from rayul.spec.data import FolderData, TofuData
from rayul.spec.limits import Limit
from rayul.spec.metrics import certify_of
from rayul.spec.spec import Spec
from rayul.words import plural


def certified_sets(spec: Spec) -> tuple[str, ...]:
    """The sets whose limits are certified: retain, and those of probes that hold rows back for it (`split`). Limits on
    other sets are checked on the rows of the search."""
    return ("retain", *(name for name, probe in spec.probe_sets.items() if probe.held_back(name)))


def certifiable(spec: Spec, limits: Iterable[Limit]) -> tuple[list[Limit], list[Limit]]:
    """The limits that certify rows can tell of, and the others."""
    sets, limits = certified_sets(spec), list(limits)
    mine = [limit for limit in limits if limit.set_name in sets]
    return mine, [limit for limit in limits if limit not in mine]


def sets_to_certify(spec: Spec) -> list[str]:
    """Of `certified_sets` those that have a limit."""
    limited = {criterion.metric.partition(".")[0] for criterion in spec.criteria}
    return [name for name in certified_sets(spec) if name in limited]


def uncertified(spec: Spec) -> list[str]:
    """The probes with a limit on rows to keep and none held back to certify it, each as "probes.mmlu"."""
    limited = {criterion.metric.partition(".")[0] for criterion in spec.criteria}
    return [
        f"probes.{name}"
        for name, probe in spec.probes.items()
        if probe.split is None and any(key in limited for key in probe.kept_sets(name))
    ]


def check_certifiable(spec: Spec, groups: Mapping[str, int]) -> None:
    """Raises InputError where the spec asks for a certificate, has a limit to certify, and the certify rows of its set
    are of too few groups. groups: by certify set."""
    if spec.certify is not None and (too_few := too_few_groups(spec, groups)):
        raise InputError(*too_few)


def too_few_groups(spec: Spec, groups: Mapping[str, int]) -> tuple[str, str] | None:
    """What is missing for the limits of a spec, and the way out; None where there are groups enough, by certify set."""
    for name in sets_to_certify(spec):
        count = groups.get(certify_of(name), 0)
        if count < LEAST_GROUPS:
            found = f"{plural(count, 'group')} of certify rows" if count else "no certify rows"
            where = "the data" if name == "retain" else f"the probe set {name}"
            return (
                f"{where} has {found}, and a certificate takes {LEAST_GROUPS} groups at least",
                f"{_way_out(spec, name)}, or set `certify: false`",
            )
    return None


def _way_out(spec: Spec, name: str) -> str:
    data = spec.data
    if name != "retain":
        split = spec.probe_sets[name].split
        assert split is not None
        least = math.ceil(LEAST_GROUPS / split.certify)
        return f"give the probe about {least} groups of equal size, or raise its split.certify"
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
