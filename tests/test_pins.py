"""The pinned versions fit each other and every release of Python 3.11, whatever index they come from."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
TRITON_OF_TORCH = {"2.13.0": "3.7.1"}
"""What PyPI's wheels of torch for Linux ask for, exactly; wheels for CPUs ask for none."""


def pinned() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    found = (Requirement(line) for line in lines if line)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def installed() -> dict[str, importlib.metadata.Distribution]:
    """Distributions of the pinned versions."""
    pins, found = pinned(), {}
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if distribution.version.split("+")[0] == pins.get(name):
            found[name] = distribution
    return found


def asked(distribution: importlib.metadata.Distribution) -> list[Requirement]:
    """What it asks for on this machine without extras."""
    found = [Requirement(line) for line in distribution.requires or []]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or len(installed()) < 20,
    reason="the pins are for Python 3.11 and not installed here",
)


def test_each_pin_takes_the_first_release_of_its_python() -> None:
    wanted = {name: distribution.metadata["Requires-Python"] or "" for name, distribution in installed().items()}
    fail = {name: releases for name, releases in wanted.items() if not SpecifierSet(releases).contains("3.11.0")}
    assert not fail


def test_pins_are_what_the_pinned_ask_for() -> None:
    pins = pinned()
    fail = {
        name: str(one)
        for name, distribution in installed().items()
        for one in asked(distribution)
        if (pin := pins.get(canonicalize_name(one.name))) and not one.specifier.contains(pin)
    }
    assert not fail


def test_triton_is_the_one_of_torch() -> None:
    pins = pinned()
    assert pins["triton"] == TRITON_OF_TORCH[pins["torch"]]


def test_the_extra_that_reads_gguf_has_all_that_transformers_needs_for_it() -> None:
    import tomllib

    project = tomllib.loads((CONSTRAINTS.parent / "pyproject.toml").read_text())["project"]
    brought = {Requirement(line).name for line in project["optional-dependencies"]["export"]}
    assert {"gguf", "accelerate"} <= brought
