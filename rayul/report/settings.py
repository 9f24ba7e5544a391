"""The settings of several specs: as text by key, those that differ, and the specs that differ in their seed alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rayul.spec import TESTBED, UPDATES, Spec, dump_yaml
from rayul.spec.gradients import SETTINGS
from rayul.spec.spec import from_plain


def settings_of(spec: Spec) -> dict[str, str]:
    """Every setting of a spec as text by dotted key; a search distribution is one setting. Without the name."""
    space = spec.space
    found: dict[str, str] = {}

    def walk(value: Any, key: str) -> None:
        if key not in space and isinstance(value, Mapping) and value:
            for name, child in value.items():
                walk(child, f"{key}.{name}" if key else str(name))
        elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
            for i, child in enumerate(value):
                walk(child, f"{key}.{i}")
        else:
            found[key] = dump_yaml(value, flow=True)

    walk({k: v for k, v in spec.resolved().items() if k != "name"}, "")
    return found


def settings_that_differ(specs: Sequence[Spec]) -> list[tuple[str, list[str]]]:
    """(key, its value in each spec); "–" where absent, which counts as the default."""
    flat = [settings_of(spec) for spec in specs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [(key, [settings.get(key, "–") for settings in flat]) for key in keys]
    usual = _defaults(specs)
    # What one sweep has at its default, and another does not have at all, was set by nobody.
    return [(key, row) for key, row in rows if len(set(row)) > 1 and not set(row) <= {"–", usual.get(key)}]


def same_but_for_seed(specs: Sequence[Spec]) -> list[list[int]]:
    """Numbers of the specs that differ in nothing but name and search.seed, two or more together. Of one seed the
    first counts: a sweep and its copy are one draw."""
    groups: dict[str, dict[int, int]] = {}
    for i, spec in enumerate(specs):
        settings = {k: v for k, v in settings_of(spec).items() if k != "search.seed"}
        groups.setdefault(json.dumps(settings, sort_keys=True), {}).setdefault(spec.search.seed, i)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _defaults(specs: Sequence[Spec]) -> dict[str, str]:
    """The default of every setting that these specs may have, as `settings_of` has it."""
    least = {"name": "x", "model": TESTBED, "data": TESTBED, "method": "ga", "training": {"lr": 1e-3}}
    found: dict[str, str] = {}
    for update in UPDATES:
        found |= settings_of(from_plain(least | {"update": update}))
    methods = [spec.method.of(name) for spec in specs for name in spec.method.names]
    for method in methods:
        found |= {
            f"method.{key}": dump_yaml(one.default, flow=True) for key, one in {**method.parameters, **SETTINGS}.items()
        }
    return found
