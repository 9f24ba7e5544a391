"""MkDocs hooks: pages that live elsewhere in the repository, and links that work in the repository and on the site.

Links in the documentation are paths relative to the file that they are in, so that they work where the repository is
read; those of the README are addresses. On the site a link to a page leads to that page, and any other file is linked
in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "cluster/README.md": "clusters.md",
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the site by the file in the repository that they are."""

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page. Raises PluginError for a link to a file that does not exist."""
    names = {name: source for source, name in ELSEWHERE.items()}
    folder = posixpath.dirname(names.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if not (ROOT / target).exists():
            raise PluginError(f"{page.file.src_uri}: {match[2]}: no such file")
        on_site = ELSEWHERE.get(target, target.removeprefix("docs/"))
        if on_site != target and files.get_file_from_path(on_site):
            return match[1] + posixpath.relpath(on_site, posixpath.dirname(page.file.src_uri) or ".") + match[3]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{match[1]}{config.repo_url}/{kind}/main/{target}{match[3]}"

    # The README has addresses, which work on package indexes too. On the site its links lead to the site's own pages,
    # and its picture is the site's own, which loads nothing from elsewhere.
    here = posixpath.relpath(".", folder or ".")
    markdown = re.sub(rf"\]\({re.escape(config.repo_url)}/(?:blob|tree)/main/", f"]({here}/", markdown)
    picture = f"{config.repo_url.replace('//github.com', '//raw.githubusercontent.com')}/main/docs/"
    markdown = markdown.replace(f"]({picture}", f"]({posixpath.relpath('docs', folder or '.')}/")
    # Code is no place for links: blocks and spans stay as they are.
    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else LINK.sub(rewritten, part) for i, part in enumerate(parts))
