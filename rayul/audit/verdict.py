"""The verdict on a finalist: one line that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rayul.audit.intervals import Interval
from rayul.audit.judge import Judged, Kept, judge, powerless
from rayul.audit.read import Audit, read_audit
from rayul.records.folder import load_records

Standing = Literal["stands", "unsure", "reopens", "breaks"]


def standing(judged: Judged) -> Standing:
    """ "breaks" a limit, "unsure" whether it does, "reopens" under attack, or "stands"."""
    holds = {kept.holds for kept in judged.kept}
    if "no" in holds:
        return "breaks"
    if judged.beyond:
        return "reopens"
    return "unsure" if "unsure" in holds or not judged.returns else "stands"


def sentence(audit: Audit, judged: Judged) -> str:
    """How much is forgotten, what is kept against which limit, and the worst that comes back."""
    what = "what is extractable" if audit.metric == "forget.es" else audit.metric
    parts = [f"forgets {_percent(judged.forgotten)} of {what}", *map(_kept, judged.kept)]
    return f"{judged.finalist.name}: {', '.join(parts)}{_returns(audit, judged)}"


def remarks(audit: Audit, judged: list[Judged]) -> list[str]:
    """What has to be known beside the verdicts."""
    found = []
    weak = powerless(audit)
    if weak:
        found.append(f"{', '.join(weak)} recovered nothing even from the refusal-only control, so this proves nothing.")
    for one in judged:
        if one.finalist.failed:
            total = len(one.finalist.failed) + len(one.finalist.runs)
            found.append(
                f"{one.finalist.name}: {len(one.finalist.failed)} of {total} seeds failed: {one.finalist.failed[0]}"
            )
    found += [f"{one.name}: no seed could be trained: {one.failed[0]}" for one in audit.finalists if not one.runs]
    for attack in audit.attacks:
        reasons = {row.reason for (_, _, name), row in audit.rows.items() if name == attack and row.reason}
        found += [f"{attack} was left out: {reason}" for reason in sorted(reasons)]
    return found


def verdict_lines(folder: Path) -> list[str]:
    """The verdicts of a results folder, for a terminal."""
    audit = read_audit(load_records(folder))
    if audit is None:
        return ["no audit yet"]
    judged = judge(audit)
    lines = [f"{standing(one):8s} {sentence(audit, one)}" for one in judged]
    return lines + [f"note: {remark}" for remark in remarks(audit, judged)]


def as_json(audit: Audit, judged: list[Judged]) -> dict[str, Any]:
    """The verdicts with their evidence, for verdict.json."""
    return {
        "confidence": audit.confidence,
        "verdicts": [
            {
                "finalist": one.finalist.name,
                "standing": standing(one),
                "sentence": sentence(audit, one),
                "seeds": [run.seed for run in one.finalist.runs],
                "mixing": [run.mixing for run in one.finalist.runs],
                "failed": list(one.finalist.failed),
                "forgotten": {"searched": one.searched} | one.forgotten._asdict(),
                "kept": [
                    {
                        "limit": str(kept.limit),
                        "at": kept.limit.at,
                        "relative": kept.limit.relative,
                        "unread_rows": kept.key,
                        "searched": kept.searched,
                        "fresh_seeds": kept.fresh._asdict(),
                        "unread": kept.unread._asdict(),
                        "holds": kept.holds,
                    }
                    for kept in one.kept
                ],
                "attacks": [
                    {
                        "attack": r.attack,
                        "worst": r.variant,
                        "variants": r.variants,
                        "before": r.before,
                        "after": r.after._asdict(),
                        "returned": r.returned._asdict(),
                        "beyond_oracle": r in one.beyond,
                    }
                    for r in one.returns
                ],
            }
            for one in judged
        ],
        "remarks": remarks(audit, judged),
    }


def _kept(kept: Kept) -> str:
    limit, relative = kept.limit, kept.limit.relative
    shown = _percent(kept.unread) if relative else f"{kept.unread.value:.3g} ± {kept.unread.margin:.1g}"
    at = f"{limit.at:.0%}" if relative else f"{limit.at:.3g}"
    word = {"yes": "", "unsure": ", not certain to hold", "no": ", broken"}[kept.holds]
    what = f"{'keeps' if limit.at_least else 'has'} {shown} of {kept.key}" if relative else f"has {kept.key} {shown}"
    return f"{what} (limit {at}{word})"


def _returns(audit: Audit, judged: Judged) -> str:
    if not judged.returns:
        return "; it was not attacked"
    if not judged.beyond:
        return f"; none of {len(judged.returns)} attacks brings back more than from a model that never knew the rows"
    worst = max(judged.beyond, key=lambda r: r.gain.value)
    joint = "; but" if any(kept.holds != "yes" for kept in judged.kept) else ", but"
    return f"{joint} {worst.attack} ({worst.variant}) brings {_percent(worst.returned)} of that back"


def _percent(interval: Interval) -> str:
    margin = interval.margin
    return f"{interval.value:.0%}" + (f" ± {100 * margin:.0f}" if margin == margin else "")
