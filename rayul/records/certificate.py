"""certificate.json of a results folder: every reading of the certify rows, what it certified and what it cost.

A reading is written with its frozen dials before any certify row is scored, and again with what was found. So the
confidence that it spends is on record whatever happens, and a reading that was cut off goes on with the same dials.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict, TypeAdapter
from pydantic_core import from_json

from rayul.errors import RayulError
from rayul.files import write_json
from rayul.records.evaluations import Evaluation, Key, adapter_name, evaluation_from
from rayul.records.schema import Count, Flag, Number, Share, TrialId, why
from rayul.spec import searched_of

CERTIFICATE = "certificate.json"

REJECTED = ".rejected"
"""Ending of the files that hold what `rayul repair` set aside, beside those that it was taken from."""

CERTIFIED = "certified"
"""Folder of the certified adapters, in the results folder: as `adapters/`, with the certified mixing baked in."""


Text = Annotated[str, Strict()]


def _date(text: str) -> str:
    datetime.fromisoformat(text)
    return text


_FLAT = ("groups", "named", "rows", "sha256")


def _reading(plain: Any) -> Any:
    """Of before probes had certify rows: a reading had what `RowsRead` has of the one set that there was."""
    if not isinstance(plain, dict) or "read" in plain:
        return plain
    read = {name: value for name, value in plain.items() if name in _FLAT}
    others = {name: value for name, value in plain.items() if name not in _FLAT}
    return {**others, "read": [{"certify": "retain_certify", **read}]}


def _evaluation(plain: Any) -> Any:
    return evaluation_from(plain) if isinstance(plain, dict) else plain


@dataclass(frozen=True)
class Margin:
    """One limit on the certify groups, at one coefficient of a dial.

    at: where the limit lies on the scale of `kept` and `low`: shares of the baseline's mean where it is relative, else
    the metric's own unit. kept: mean over the groups. low: its confidence bound, below for at least and above for at
    most, at the level of the dial (infinite of one group). sd: of the groups' margins (NaN of one group).
    """

    metric: Text
    at_least: Flag
    relative: Flag
    at: Number
    kept: Number
    low: Number
    sd: Number


@dataclass(frozen=True)
class Walked:
    """A coefficient that was tested. scale: of the dial. p_value: of the t test, of several limits the largest; 1 where
    a limit is broken that has no certify rows. e_value: of several limits the smallest; None where there are too few
    groups, or a metric has no bounds."""

    scale: Share
    p_value: Share
    margins: tuple[Margin, ...] = ()
    e_value: Number | None = None


@dataclass(frozen=True)
class Dial:
    """The mixing coefficients of one adapter of the front, frozen, and how far they were passed.

    trial_id, step, mixing: of the adapter. target: of several utility targets (control.tau) the one whose limits are
    tested; None for those of the sweep. scales: times `mixing`, ascending. walked: from the first coefficient to the
    first that failed both tests. passed: how many passed the t test before it failed; passed_free: the e-value, which
    assumes nothing of the distribution. certified: the evaluation of the last that passed the t test.
    """

    trial_id: TrialId
    step: Count
    mixing: Share
    scales: tuple[Share, ...]
    walked: tuple[Walked, ...] = ()
    passed: Count = 0
    passed_free: Count = 0
    certified: Annotated[Evaluation | None, BeforeValidator(_evaluation)] = None
    target: Share | None = None

    def __post_init__(self) -> None:
        if not max(self.passed, self.passed_free) <= len(self.walked) <= len(self.scales):
            raise ValueError(f"a dial of trial {self.trial_id} with {self.passed} passed of {len(self.walked)} walked")
        if self.certified is not None and not self.passed:
            raise ValueError(f"a dial of trial {self.trial_id} is certified, and passed at no scale")
        if self.certified is not None and (self.certified.trial_id, self.certified.step) != (self.trial_id, self.step):
            raise ValueError(f"a dial of trial {self.trial_id} certifies trial {self.certified.trial_id}")

    @property
    def source(self) -> Key:
        return (self.trial_id, self.step, self.mixing)

    def mixing_at(self, passed: int) -> float:
        """The coefficient of the model before and after unlearning, of the so many-th of the dial."""
        return round(self.mixing * self.scales[passed - 1], 6)

    @property
    def last(self) -> Walked | None:
        """The certified coefficient."""
        return self.walked[self.passed - 1] if self.passed else None


@dataclass(frozen=True)
class RowsRead:
    """One set of certify rows, as it was read. certify: its name, such as retain_certify. named: whether the rows say
    which belong together (else each is taken as independent). by: the column that says so, "" where it is not known."""

    certify: Text
    groups: Count
    named: Flag
    rows: Count
    sha256: Text
    by: Text = ""

    @property
    def searched(self) -> str:
        """The set whose limits these rows certify."""
        return searched_of(self.certify)

    @property
    def units(self) -> str:
        """What the certificate speaks of."""
        return "groups" if self.named else "rows"


@dataclass(frozen=True)
class Reading:
    """One reading of the certify rows.

    date: ISO 8601. alpha: the confidence that it spent, for all of its dials together. read: the sets of certify rows,
    one for each set that has a limit. limits: those that were tested, as people write them; others: limits on rows that
    have no certify set, which the certified adapters keep on the rows of the search only. finished: whether the rows
    have been scored. earlier: the certified requests that the model went through before, the first first, a sentence
    each.
    """

    date: Annotated[str, AfterValidator(_date)]
    alpha: Annotated[float, Strict(), Field(gt=0, lt=1)]
    read: Annotated[tuple[RowsRead, ...], Field(min_length=1)]
    limits: tuple[Text, ...]
    others: tuple[Text, ...] = ()
    dials: Annotated[tuple[Dial, ...], Field(min_length=1, validate_default=True)] = ()
    finished: Flag = False
    earlier: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        sets = {one.searched for one in self.read}
        for dial in self.dials:
            strange = [m.metric for at in dial.walked for m in at.margins if m.metric.partition(".")[0] not in sets]
            if strange:
                raise ValueError(
                    f"a dial of trial {dial.trial_id} has {strange[0]}, of which no certify rows were read"
                )

    def of(self, metric: str) -> RowsRead:
        """The certify rows that a limit on this metric was tested on."""
        return next(one for one in self.read if one.searched == metric.partition(".")[0])

    @property
    def groups(self) -> int:
        """Of the set of certify rows that has the fewest."""
        return min(one.groups for one in self.read)

    @property
    def level(self) -> float:
        """At which each dial is tested."""
        return self.alpha / len(self.dials)

    @property
    def certified(self) -> list[Dial]:
        return [dial for dial in self.dials if dial.certified is not None]

    def with_found(self, dials: tuple[Dial, ...]) -> Reading:
        return replace(self, dials=dials, finished=True)


@dataclass(frozen=True)
class Certificates:
    """All readings, in their order. A certificate of an earlier one stays as valid as it was."""

    readings: tuple[Annotated[Reading, BeforeValidator(_reading)], ...] = ()

    @property
    def latest(self) -> Reading | None:
        """The last reading that was finished."""
        return next((reading for reading in reversed(self.readings) if reading.finished), None)

    @property
    def begun(self) -> Reading | None:
        """A reading that was cut off before it was finished: nothing of it has been seen."""
        return self.readings[-1] if self.readings and not self.readings[-1].finished else None

    @property
    def certified(self) -> list[tuple[Reading, Dial]]:
        return [(reading, dial) for reading in self.readings for dial in reading.certified]

    def with_reading(self, reading: Reading) -> Certificates:
        """With one more, or in the place of the one that was begun."""
        kept = self.readings if self.begun is None else self.readings[:-1]
        return Certificates((*kept, reading))


def certified_folder(folder: Path, e: Evaluation) -> Path:
    """certified/<trial_id>-<step>-<mixing>/ of a results folder."""
    return folder / CERTIFIED / adapter_name(e)


def write_certificates(folder: Path, certificates: Certificates) -> None:
    """Write certificate.json, whole or not at all."""
    write_json(folder / CERTIFICATE, asdict(certificates))


def read_certificates(folder: Path) -> Certificates:
    """Of a results folder; without readings where it has no certificate.json. Raises RayulError where it is broken."""
    path = folder / CERTIFICATE
    try:
        return _CERTIFICATES.validate_python(from_json(path.read_bytes()))
    except FileNotFoundError:
        return Certificates()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RayulError(
            f"{path} is not as rayul writes it: {why(error)}",
            "restore it: nothing else records how much confidence has been spent on the certify rows; or "
            "`rayul repair` sets it aside, and then these rows are not read again",
        ) from error


_CERTIFICATES = TypeAdapter(Certificates)
