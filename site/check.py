"""Look at a built site: nothing in it comes from the network, and every link in it leads somewhere.

python site/check.py build/site
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "embed": "src",
    "object": "data",
}


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it that can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.places.add(found["id"])
        if tag == "a" and "name" in found:
            self.places.add(found["name"])
        if tag in LOADED and (target := found.get(LOADED[tag])):
            self.loads.append(target)
        if tag == "link" and found.get("rel") not in ("canonical", "alternate", "prev", "next", "edit"):
            self.loads.append(found.get("href", ""))
        if tag == "a" and "href" in found:
            self.leads.append(found["href"])


def faults(site: Path) -> list[str]:
    site = site.resolve()
    pages = {path: Page(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name} loads {target}" for target in page.loads if _outside(target)]
        if name.name == "404.html":
            continue  # its links are for the root of a server
        for target in (*page.leads, *page.loads):
            if _outside(target) or target.startswith(("data:", "mailto:", "javascript:")):
                continue
            parts = urlsplit(target)
            led = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            led = led / "index.html" if led.is_dir() else led
            if not led.exists():
                found.append(f"{name} leads to {target}, which is not there")
            elif parts.fragment and led in pages and unquote(parts.fragment) not in pages[led].places:
                found.append(f"{name} leads to {target}, where no such place is")
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:url\(|@import\s+)['\"]?((?:https?:)?//[^'\")]+)", css):
            found.append(f"{path.relative_to(site)} loads {target}")
    return found


def _outside(target: str) -> bool:
    return bool(re.match(r"(https?:)?//", target))


def main() -> None:
    site = Path(sys.argv[1])
    found = faults(site)
    for fault in found:
        print(fault)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(found)} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
