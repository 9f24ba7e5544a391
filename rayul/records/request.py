"""request.json of a certified export: what `rayul init --after` has to know for the next request to forget.

It stays on this machine: it has the paths of the spec, and `rayul export --push-to-hub` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Strict, TypeAdapter, ValidationError
from pydantic_core import from_json

from rayul.errors import InputError
from rayul.files import write_json
from rayul.records.schema import Count, Number
from rayul.spec.problems import first_problem

REQUEST = "request.json"

BEFORE = "before.jsonl"
"""In a data folder: the rows that earlier requests forgot."""

Text = Annotated[str, Strict()]


@dataclass(frozen=True)
class Request:
    """spec: of the sweep, resolved, with absolute paths of models and rows. earlier: as in a spec, this request last.
    forgotten: es on all rows that were to be forgotten until now, as the certified record has it; None where it was
    not measured. groups: how many certify groups were read. seen: `group_hash` of every group of rows that this sweep
    or an earlier one had in any set. rows: `rows_hash` of the rows to forget."""

    spec: dict[str, Any]
    earlier: tuple[dict[str, Any], ...]
    forgotten: Number | None
    groups: Count
    seen: tuple[Text, ...]
    rows: Text


_REQUEST = TypeAdapter(Request)


def write_request(folder: Path, request: Request) -> None:
    write_json(folder / REQUEST, asdict(request))


def read_request(folder: Path) -> Request:
    """Of an exported folder. Raises InputError where it has none, or a broken one."""
    path = folder / REQUEST
    try:
        return _REQUEST.validate_python(from_json(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {REQUEST}, so it is no certified export of this version",
            "export a certified point: rayul export RESULTS --certified",
        ) from None
    except (OSError, ValueError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{path} cannot be read: {why}", "export the point again") from error


def group_hash(group: str, key: str) -> str:
    """Of a row's group, or where it has none of its `Row.key`: names of people stay out of files that are passed on."""
    return sha256(f"group {group}".encode() if group else f"row {key}".encode()).hexdigest()[:32]


def rows_hash(keys: Iterable[str]) -> str:
    """Of rows by their `Row.key`, in any order."""
    return sha256("\n".join(sorted(keys)).encode()).hexdigest()
