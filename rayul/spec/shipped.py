"""The specs that come with rayul, by name: `ga` means search_spaces/ga.yaml, in a clone and in an installed package."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "search_spaces", _PACKAGE.parent / "search_spaces")
"""Where they are in a wheel, and in a clone."""


def shipped_specs() -> dict[str, Path]:
    """The file of each shipped spec by its name, in alphabetical order."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def spec_file(path: str | Path) -> Path:
    """The file that a user means: the one at `path` where there is one, else the shipped spec of that name, else
    `path`."""
    path = Path(path)
    try:
        return path if path.is_file() else shipped_specs().get(str(path), path)
    except (OSError, ValueError):  # a name too long, a zero byte: whoever opens it says so
        return path


def is_name(path: str | Path) -> bool:
    """Whether this may be meant as the name of a shipped spec: it has neither folder nor suffix."""
    return Path(path).name == str(path) and not Path(path).suffix


def way_to_shipped(path: str | Path) -> str:
    """A hint for a spec that is not there: the shipped one that was probably meant, and all there are."""
    shipped = shipped_specs()
    stem = Path(path).stem
    if stem in shipped and not is_name(path):
        return f"rayul comes with a spec of that name: write {stem} in place of {path}"
    folder = Path(path).parent
    beside = {str(file): file.name for file in _specs_in(folder) if not is_name(path)}
    near = difflib.get_close_matches(Path(path).name, beside.values(), n=1)
    meant = [file for file, name in beside.items() if name in near] or difflib.get_close_matches(
        stem.lower(), shipped, n=1
    )
    return (f"did you mean {meant[0]}? " if meant else "") + f"Shipped specs: {', '.join(shipped)}"


def _specs_in(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):  # no such folder, a zero byte
        return []
