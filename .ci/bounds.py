"""The versions that are installed beside the bounds of pyproject.toml; fails if `lowest` did not reach one of them.

    python .ci/bounds.py lowest|newest [FOLDER]

With the folder of JUnit files of the parts of tests/ that passed it also records them in .ci/proven.json.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.version import Version

NAME = "hardy-nn"
EXTRAS = ("", "cuda", "ray", "export", "peft", "codec", "view", "poses", "graph", "splat", "docs", "rtl", "dev")
TESTS = Path(__file__).parents[1] / "tests"
PROVEN = Path(__file__).with_name("proven.json")


def main(which: str, folder: str = "") -> int:
    unreached, versions = 0, {}
    for text in sorted(set(importlib.metadata.requires(NAME) or [])):
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        if requirement.name == NAME or not wanted:
            continue
        try:
            found = Version(importlib.metadata.version(requirement.name))
        except importlib.metadata.PackageNotFoundError:
            continue
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        reached = all(found == bound for bound in bounds)
        unreached += which == "lowest" and not reached
        versions[requirement.name] = str(found)
        print(f"{requirement.name:22} {requirement.specifier!s:12} {found}" + ("" if reached else "  not the bound"))
    if which == "lowest" and unreached:
        return 1
    if folder:
        known = json.loads(PROVEN.read_text()) if PROVEN.is_file() else {}
        known[f"{which} {platform.python_version()}"] = proven(Path(folder)) | {"versions": versions}
        PROVEN.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    return 0


def proven(folder: Path) -> dict[str, object]:
    """Which parts passed, of how many; counts, commits, and the last day."""
    counts = {"tests": 0, "skipped": 0}
    commits, days = set(), set()
    for file in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(file).getroot().iter("testsuite"):
            assert suite.get("failures") == suite.get("errors") == "0", file
            for name in counts:
                counts[name] += int(suite.get(name, 0))
            commits.add(suite.get("name"))
            days.add(str(suite.get("timestamp"))[:10])
    parts = sorted(file.stem.removeprefix("tests-") for file in folder.glob("*.xml"))
    whole = [path for path in TESTS.iterdir() if path.name.startswith("test_") or any(path.rglob("test_*.py"))]
    return {
        "parts": parts,
        "of": len(whole),
        "passed": counts["tests"] - counts["skipped"],
        "skipped": counts["skipped"],
        "commits": sorted(commits),
        "date": max(days),
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
