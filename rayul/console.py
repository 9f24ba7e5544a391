"""Where everything is printed: text is text, whoever wrote it."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from rayul.words import printable


def show(text: object, *, error: bool = False) -> None:
    """Print what may hold somebody else's text (reasons, names, a server's answer): a terminal obeys none of it."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout)


class PlainConsole(Console):
    """The same for what rich prints: no markup, and escape sequences shown and not obeyed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
