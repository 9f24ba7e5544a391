"""`certify`: on unless switched off, and what its numbers may be."""

from __future__ import annotations

import pytest

from rayul.spec import Certify, SpecError, dump_yaml, parse_spec

BASE = "name: a\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", Certify(points=5, confidence=0.9)),
        ("certify: true", Certify(points=5, confidence=0.9)),
        ("certify: {points: 2, confidence: 0.95}", Certify(points=2, confidence=0.95)),
        ("certify: false", None),
    ],
)
def test_a_sweep_certifies_unless_it_is_switched_off_and_its_record_says_so(text: str, read: Certify | None) -> None:
    spec = parse_spec(BASE + text, source="spec.yaml")
    assert spec.certify == read
    assert parse_spec(dump_yaml(spec.resolved()), source="spec.yaml").certify == read


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("certify: {points: 0}", r"certify\.points: must be at least 1, got 0"),
        ("certify: {confidence: 0.5}", r"certify\.confidence: must be more than 0\.5"),
        ("certify: {confidence: 1}", r"certify\.confidence"),
        ("certify: 3", r"certify: expected a mapping, got 3"),
    ],
)
def test_numbers_that_certify_nothing_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_spec(BASE + text, source="spec.yaml")
