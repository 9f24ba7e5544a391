"""The pages of results/ say what the committed records say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rayul.errors import InputError
from rayul.records.folder import load_records

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def test_a_folder_of_tables_is_refused_as_that_and_the_page_says_how_to_make_the_sweep_again() -> None:
    with pytest.raises(InputError) as caught:
        load_records(RESULTS / "testbed")
    assert "only a sweep's tables" in caught.value.hint
    assert "`rayul report bench/ga`" in (RESULTS / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_what_stays_forgotten_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    monkeypatch.delitem(sys.modules, "stays_tables", raising=False)
    import stays_tables

    page = (RESULTS / "stays" / "README.md").read_text(encoding="utf-8").splitlines()
    made = "\n".join(stays_tables.tables(pd.read_parquet(stays_tables.RECORDS))).splitlines()
    assert len(made) > 30
    assert [line for line in made if line and line not in page] == []


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks" / "reference"))
    monkeypatch.delitem(sys.modules, "claims", raising=False)
    import claims

    return claims


def test_the_tables_of_the_page_are_those_of_the_records(claims) -> None:  # type: ignore[no-untyped-def]
    page = (RESULTS / "README.md").read_text(encoding="utf-8").splitlines()
    made = [*claims.tofu(RESULTS), *claims.claims(RESULTS)]
    assert len(made) > 30
    assert [line for line in made if line and line not in page] == []


def test_a_difference_over_three_seeds_is_marked_only_where_a_t_test_sees_it(claims) -> None:  # type: ignore[no-untyped-def]
    """All three seeds agree on the sign, so a bootstrap would leave zero out of both."""
    import pandas as pd
    from scipy.stats import ttest_rel

    theirs = pd.Series([0.11, 0.07, 0.13])
    for ours, marked in (([0.41, 0.16, 0.33], False), ([0.41, 0.36, 0.45], True)):
        assert ("*" in claims.difference(pd.Series(ours), theirs)) == marked
        assert (ttest_rel(ours, theirs).pvalue < 0.05) == marked
