"""`earlier`: the requests that the model has been through before this one."""

from __future__ import annotations

from pydantic import Field

from rayul.spec.section import Section


class Earlier(Section):
    """One certified request to forget; `rayul init --after` writes them."""

    name: str = Field(examples=["first"])
    """Name of its sweep."""
    date: str = Field(examples=["2026-11-28T12:00:00+00:00"])
    """Date on which its certify rows were read."""
    rows: int = Field(ge=1, examples=[5])
    """Number of rows that were forgotten."""
    sha256: str = Field(examples=["0" * 64])
    """Hash of these rows, as in the `run.json` of its sweep."""
    certificate: str = Field(examples=["certified: keeps at least 90% of retain.es on new groups"])
    """What was certified, in a sentence."""

    def __str__(self) -> str:
        return f"{self.name} ({self.rows} rows forgotten, sha256 {self.sha256[:12]}, {self.date}): {self.certificate}"
