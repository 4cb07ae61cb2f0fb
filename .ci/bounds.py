"""The versions that are installed beside the bounds of pyproject.toml; fails if `lowest` did not reach one of them."""

import importlib.metadata
import sys

from packaging.requirements import Requirement
from packaging.version import Version

EXTRAS = ("", "ray", "export", "peft", "codec", "view", "poses", "graph", "rtl", "dev")


def main(which: str) -> int:
    unreached = 0
    for text in sorted(set(importlib.metadata.requires("hardy") or [])):
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        if requirement.name == "hardy" or not wanted:
            continue
        try:
            found = Version(importlib.metadata.version(requirement.name))
        except importlib.metadata.PackageNotFoundError:
            continue
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        reached = all(found == bound for bound in bounds)
        unreached += which == "lowest" and not reached
        print(f"{requirement.name:18} {requirement.specifier!s:12} {found}" + ("" if reached else "  not the bound"))
    return 1 if which == "lowest" and unreached else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
