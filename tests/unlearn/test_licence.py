"""Whether changed weights of a base may be passed on, as its model card tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayul.unlearn.licence import licence, may_be_passed_on


@pytest.mark.parametrize(
    ("card", "named", "free"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0", True),
        ("---\nlicense: MIT\n---\n", "mit", True),
        ("---\nlicense: llama3.2\n---\n", "llama3.2", False),
        ("---\nlicense: [mit, other]\n---\n", None, False),
        ("# No front matter\n", None, False),
        ("---\nlicense: [\n---\n", None, False),
    ],
)
def test_the_card_of_a_folder_is_read(tmp_path: Path, card: str, named: str | None, free: bool) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path)) == named
    assert may_be_passed_on(str(tmp_path)) is free


def test_without_a_card_nothing_is_known(tmp_path: Path) -> None:
    assert licence(str(tmp_path)) is None
