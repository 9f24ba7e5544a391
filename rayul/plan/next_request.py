"""The spec of the next request to forget, from the certified export of the last one: `rayul init --after`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.errors import InputError
from rayul.records.request import BEFORE, Request, group_hash, read_request, rows_hash
from rayul.spec import LEAST_GROUPS, RESERVE, FolderData, Spec, dump_yaml, parse_spec
from rayul.spec.spec import from_plain
from rayul.words import plural

if TYPE_CHECKING:
    from rayul.unlearn.data import Row, Sets

MARGIN = 0.05
"""How much of the earlier rows' es may come back, beyond what the certified record has."""

KEPT = ("retain_train", "retain", "retain_report", "general", "holdout")


@dataclass(frozen=True)
class NextRequest:
    """text: of the spec. data: the folder that it names, which `write` makes. said: what became of the rows."""

    text: str
    data: Path
    sets: Sets
    said: tuple[str, ...]

    def write(self) -> None:
        from rayul.unlearn.data import FILES, RESERVE_FILE, write_rows

        self.data.mkdir(parents=True)
        files = FILES | {"before": BEFORE, RESERVE: RESERVE_FILE}
        for name, rows in self.sets.items():
            write_rows(self.data / files[name], rows)


def next_request(
    export: Path, forget: Path, out: Path, more: Path | None = None, margin: float = MARGIN
) -> NextRequest:
    """The next spec: on the exported model, with the settings of its sweep, new rows to forget, and a probe `before` of
    the rows that earlier requests forgot, which have to stay forgotten.

    more: further rows to keep, of new groups. margin: in es. Groups that are now to be forgotten leave the rows to
    keep. The certify rows are of groups that no sweep of the chain had in any set: of `more`, and of the reserve that
    the earlier folder has. As many are used as the last certificate read, and the rest is the new reserve.
    Raises InputError for an export without a certificate, rows that have changed, and where fewer groups are left
    unread than a certificate takes.
    """
    from rayul.unlearn.data import read_rows

    request = read_request(export)
    spec = _spec_of(request, export)
    sets = _earlier_sets(spec, request)
    new = read_rows(forget, _columns(spec))
    if not new:
        raise InputError(f"{forget} has no rows", "name a file with rows as --forget")
    leaving = {_hash(row) for row in new}
    before = (*sets["before"], *sets["forget"])
    if gone := sum(_hash(row) in {_hash(old) for old in before} for row in new):
        raise InputError(
            f"{gone} of {len(new)} rows in {forget} are of groups that an earlier request has forgotten already",
            "leave them out: the probe `before` measures them",
        )
    given = [] if more is None else read_rows(more, _columns(spec))
    fresh = [*sets[RESERVE], *given]
    unread = [row for row in fresh if _hash(row) not in leaving and _hash(row) not in set(request.seen)]
    groups = list(dict.fromkeys(map(_hash, unread)))
    if len(groups) < LEAST_GROUPS:
        raise InputError(
            f"{plural(len(groups), 'group')} of rows to keep {'is' if len(groups) == 1 else 'are'} left that no sweep "
            f"has read, and a new certificate takes {LEAST_GROUPS}",
            _way_out(more, {_hash(row) for row in given}, leaving, set(request.seen)),
        )
    certify = set(groups[: max(LEAST_GROUPS, request.groups)])
    sets["retain"] += sets.get("retain_certify", ())  # read by a certificate, so fit for the search from now on
    kept = {name: tuple(row for row in sets.get(name, ()) if _hash(row) not in leaving) for name in KEPT}
    for name in ("retain_train", "retain"):
        if not kept[name]:
            raise InputError(f"no {name} rows are left once the new rows to forget are gone", "forget fewer groups")
    made: Sets = {name: rows for name, rows in kept.items() if rows}
    made |= {"forget": tuple(new), "before": before}
    made["retain_certify"] = tuple(row for row in unread if _hash(row) in certify)
    made[RESERVE] = tuple(row for row in unread if _hash(row) not in certify)
    data = (out.parent / f"{out.stem}-data").absolute()
    if data.exists():
        raise InputError(f"{data} exists already", "choose another name with --out, or remove it")
    left = sum(len(sets.get(name, ())) - len(kept[name]) for name in KEPT)
    said = [
        f"{plural(len(before), 'row')} of earlier requests are measured as before_forget",
        f"{len(certify)} unread groups are kept for the certificate, {len(groups) - len(certify)} for later requests",
    ]
    said += [
        f"{name}: the certificate has read its rows, so none are held back again, and its limits are not certified"
        for name, probe in spec.probes.items()
        if probe.split is not None
    ]
    said += [f"{plural(left, 'row')} to keep were left out: their groups are now to be forgotten"] if left else []
    return NextRequest(_text(spec, request, export, data, out.stem, margin), data, made, tuple(said))


def _way_out(more: Path | None, groups: set[str], leaving: set[str], seen: set[str]) -> str:
    """groups: those of the file `more`, as hashes."""
    if more is None:
        return "give rows to keep of groups that no earlier request had in any file, with --retain"
    return (
        f"of the {plural(len(groups), 'group')} in {more}, {len(groups & seen)} stood in a file of an earlier request "
        f"and {len(groups & leaving)} are to be forgotten now: give others. Where there are none, go on without a "
        "certificate: copy the last spec, set model.path, data.forget and `certify: false`"
    )


def _spec_of(request: Request, export: Path) -> Spec:
    try:
        return from_plain(request.spec)
    except InputError as error:
        raise InputError(f"{export}: the spec of its sweep is not valid now: {error.message}", error.hint) from error


def _columns(spec: Spec) -> dict[Any, str]:
    return dict(getattr(spec.data, "columns", {}))


def _hash(row: Row) -> str:
    return group_hash(row.group, row.key)


def _earlier_sets(spec: Spec, request: Request) -> Sets:
    """The sets of the last sweep, with those of `before` and `reserve`, empty where it had none."""
    from rayul.unlearn.data import load_sets, read_rows, reserved

    sets = load_sets(spec.data)
    if any(row.window for rows in sets.values() for row in rows):
        raise InputError(
            "the last sweep's rows are chunks of documents, which the data folder of a next request cannot hold",
            "copy its spec, and write model, data.forget and a probe of the earlier documents yourself",
        )
    if rows_hash(row.key for row in sets["forget"]) != request.rows:
        raise InputError(
            "the rows that the last request forgot have changed since it was exported",
            "restore them: they have to be measured, to show that they stay forgotten",
        )
    sets |= {"before": (), RESERVE: reserved(spec.data)}
    if isinstance(spec.data, FolderData) and (place := Path(spec.data.folder) / BEFORE).is_file():
        sets["before"] = tuple(read_rows(place))
    return sets


def _text(spec: Spec, request: Request, export: Path, data: Path, name: str, margin: float) -> str:
    plain = spec.resolved()
    merged = export / "merged"
    place = merged if merged.is_dir() else export
    plain["name"] = name
    plain["model"] |= {
        "path": str(place.absolute()),
        "revision": None,
        "gguf_file": None,
        "date": None,
        "tokenizer": None,
    }
    plain["data"], plain["oracle"] = {"folder": str(data)}, None
    for probe in plain["probes"].values():
        probe["split"] = None
    metrics = [metric for metric in ("es", "prob") if metric in spec.evaluate.metrics] or ["es"]
    # A probe of the model's own wording: how the rows were asked when they were forgotten.
    plain["probes"] |= {"before": {"forget": str(data / BEFORE), "metrics": metrics}}
    if request.forgotten is not None:
        limit = {"metric": "before_forget.es", "at_most": round(request.forgotten + margin, 6)}
        criteria = [one for one in plain["control"]["criteria"] or () if one["metric"] != "before_forget.es"]
        plain["control"]["criteria"] = [*criteria, limit]
    plain["earlier"] = list(request.earlier)
    text = _HEADER.format(count=plural(len(request.earlier), "certified request")) + dump_yaml(_short(plain))
    parse_spec(text, source="rayul init --after", check_files=False)  # the data folder is still to be written
    return text


def _short(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if value is not None}


_HEADER = """\
# The next request, after {count} (`earlier`), with the settings of the last sweep.
#
# The model is the exported one, so limits relative to the baseline are relative to that model: what is lost adds up
# over requests. before_forget is what earlier requests forgot. It is measured and never trained on, and its limit is
# what the last certified record has, plus a margin.
"""
