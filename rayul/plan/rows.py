"""What to know about the rows of a sweep before it runs, from the rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rayul.spec import FolderData, Source, SourceData, Spec, TofuData
from rayul.spec.data import TESTBED
from rayul.spec.packaged import PACKAGED
from rayul.spec.source import find
from rayul.words import plural

if TYPE_CHECKING:
    from rayul.unlearn.data import Sets

FEW_ROWS, FEW_GROUPS, SHOWN = 20, 5, 3


def local_sets(spec: Spec) -> Sets | None:
    """The rows, where all are in files of this machine; None where some are elsewhere or, as the testbed's, not made
    yet. Raises what `load_sets` raises."""
    data = spec.data
    if isinstance(data, TofuData) or (isinstance(data, FolderData) and data.folder == TESTBED):
        return None
    if not all(find(source.path) for source in _sources(spec).values()):
        return None
    from rayul.unlearn.data import load_sets

    return load_sets(data, spec.probes)


def _sources(spec: Spec) -> dict[str, Source]:
    """Every file, folder or data set of rows that the spec names, by its key."""
    data = spec.data if isinstance(spec.data, SourceData) else ()
    found = {f"data.{key}": value for key, value in data if isinstance(value, Source)}
    for name, probe in spec.probes.items():
        for set_name, *both in probe.sources(name):
            found |= {
                f"probes.{name} ({set_name}{kind})": one
                for kind, one in zip(("", ", examples"), both, strict=True)
                if one is not None
            }
    return found


def hub_lines(spec: Spec) -> Iterator[str]:
    """What is looked for on the Hub, since nothing here has its name: a mistyped folder looks the same."""
    models = {"model.path": spec.model, "oracle.path": spec.oracle}
    places = {key: model.path for key, model in models.items() if model is not None}
    places |= {key: source.path for key, source in _sources(spec).items()}
    for key, place in places.items():
        if place not in (TESTBED, *PACKAGED) and find(place) is None:
            yield f"{key}: nothing here is called {place}, so it will be looked for on the Hugging Face Hub"


def row_lines(sets: Sets) -> Iterator[str]:
    """Sentences with counts and the numbers of rows, never what they say."""
    from rayul.unlearn.data import group_numbers

    forget = sets.get("forget", ())
    if not forget:
        return
    groups = len(set(group_numbers(forget)))
    whole = any(row.window for row in forget)  # documents, which nothing has cut yet
    few = len(forget) < FEW_ROWS and not whole
    if groups == 1 and len(forget) > 1 and not whole and not any(row.chunk for row in forget):
        yield (
            f"the forget set is {plural(len(forget), 'row')} of 1 group: nothing can be known of how forgetting "
            "differs between groups, so standard errors of its metrics say nothing of other groups"
            + ("; more rows, such as the same facts in other words, would tell more of this one" if few else "")
        )
    elif few or groups < FEW_GROUPS:
        of = f" of {plural(groups, 'group')}" if groups < len(forget) else ""
        said = (
            f"{plural(len(forget), 'row')}{of}: with fewer than {FEW_ROWS} rows or {FEW_GROUPS} groups one row or group"
        )
        if whole:
            noun = "groups" if of else "documents"
            said = f"{plural(len(forget), 'document')}{of}: with fewer than {FEW_GROUPS} {noun} one of them"
        if whole or any(row.chunk for row in forget):
            way_out = "; add texts, or name parts of them, such as chapters, in a column group"
        elif few:
            way_out = "; add rows, such as the same facts in other words"
        else:
            way_out = (
                ". That is so with the request of one person; if the rows are about several, name the column that says "
                "whom with --group or data.columns.group"
            )
        yield f"the forget set has {said} decides what its metrics say{way_out}"
    yield from _copies(sets)
    yield from _alike(sets)


def _copies(sets: Sets) -> Iterator[str]:
    first: dict[str, int] = {}
    copies = [(i, first[row.key]) for i, row in enumerate(sets["forget"], 1) if first.setdefault(row.key, i) != i]
    if copies:
        shown = "; ".join(f"row {i} of row {original}" for i, original in copies[:SHOWN])
        yield (
            f"{plural(len(copies), 'forget row')} {'is a copy' if len(copies) == 1 else 'are copies'} of another "
            f"({shown}): they are trained on and counted as often as they stand there"
        )


def _alike(sets: Sets) -> Iterator[str]:
    from rayul.unlearn.data import nearly_same
    from rayul.unlearn.data.overlap import APART, place_of

    pairs = nearly_same(sets, [name for name in APART if name != "forget"])
    if pairs:
        of = ", ".join(f"{name} {count}" for name, count in Counter(pair.set_name for pair in pairs).items())
        closest = sorted(pairs, key=lambda pair: -pair.similarity)[:SHOWN]
        shown = "; ".join(
            f"{place_of(sets, 'forget', pair.forget)} and {place_of(sets, pair.set_name, pair.row)} "
            f"share {pair.similarity:.0%} of their runs of three words"
            for pair in closest
        )
        count = f"{len(pairs)} of {plural(len(sets['forget']), 'forget row')}"
        yield (
            f"{count} {'says' if len(pairs) == 1 else 'say'} nearly the same as a row of another set ({of}): {shown}. "
            "Where that set is to be kept, remove its row: a model cannot forget one and keep the other"
        )
