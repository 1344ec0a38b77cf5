"""Checks the links of a built site, and of the Markdown files of the repository: `python docs/links.py FOLDER`.

A link to another site is not followed; one to a page, a picture or a place in a page must lead there.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Page(HTMLParser):
    """The links of a page, and the places that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]


def is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def broken(site: Path) -> list[str]:
    """Links of the site that lead nowhere, with the page that has them."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in filter(lambda link: not is_elsewhere(link), page.links):
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists() or (place and target in pages and place not in pages[target].places):
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return found


def broken_in_markdown() -> list[str]:
    """Relative links of README.md and its like that lead nowhere."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(file, link.split("#")[0]) for file in files for link in MARKDOWN_LINK.findall(file.read_text())]
    return [
        f"{file.relative_to(ROOT)}: {link}"
        for file, link in links
        if link and not is_elsewhere(link) and not (file.parent / link).exists()
    ]


if __name__ == "__main__":
    wrong = broken(Path(sys.argv[1])) + broken_in_markdown()
    print("\n".join(wrong) or "Every link leads somewhere.")
    raise SystemExit(bool(wrong))
