"""One registry of locators: whatever is registered, here or by another package, is reachable by its name."""

import subprocess
import sys
from pathlib import Path

import pytest

import hardy
from hardy.core.locators import Locator, locator_named, locators, register_locator
from hardy.core.ranking import Ranking
from hardy.core.selection import select
from hardy.core.units import checked_unit, units
from hardy.errors import InputError
from hardy.studies import locate

KNOWN = {
    "rtn", "noise", "weight-error", "effective-rank", "energy-gain", "perplexity-drop", "lieq-v1", "noise-sensitivity",
}  # fmt: skip
SHORT = {"rtn": {"group_size": 16}, "weight-error": {"group_size": 16}, "noise-sensitivity": {"seeds": (0,)}}


# Of hardy.interp: what they rank depends on a task, on which tests/interp judges them.
OF_TASKS = {
    "attribution-patching",
    "block-influence",
    "direct-logit-attribution",
    "fisher",
    "grad-drop",
    "gradient",
    "logit-lens",
    "magnitude",
    "massive",
    "patching",
    "patchscope",
    "path-patching",
    "prefix-matching",
    "probing",
    "qk-fix",
    "sink",
}


def test_every_locator_of_every_room_is_there() -> None:
    assert set(locators()) == KNOWN | OF_TASKS
    for name, each in locators().items():
        assert each.summary, name


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_locator_ranks_each_of_its_units_and_refuses_others(micro_llama: Path, name: str) -> None:
    run = {"tokens": 128, "window": 64, "workers": 1, **SHORT.get(name, {})}
    subject = hardy.Subject.of(micro_llama, tokens=128, window=64)
    sites = select(subject.model, "mlp")
    for unit in locator_named(name).units:
        if unit == "expert":
            continue
        ranking = locate(subject, by=name, unit=unit, select="mlp", **run)
        assert set(ranking.scores) == set(units(sites, unit)), unit
        assert all(select(subject.model, found) for found in ranking.scores)
    with pytest.raises(InputError, match=rf"locator {name}: unit must be .*got 'head'"):
        locate(subject, by=name, unit="head")
    with pytest.raises(InputError, match=rf"locator {name} has no option flavour; it takes"):
        locate(subject, by=name, flavour=3)


def test_experts_are_a_unit_where_they_are_modules() -> None:
    from models import build

    mixture = build("mixtral")
    if any(site.parameter != "weight" for site in select(mixture, "experts")):
        with pytest.raises(InputError, match="no numbered experts"):
            units(select(mixture, "experts"), "expert")


def test_the_old_name_of_a_unit_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="unit 'site' is now called 'projection'"):
        assert checked_unit("site", ("block", "projection")) == "projection"
    with pytest.raises(InputError, match="unit must be block, got 'site'"):
        checked_unit("site", ("block",))


def test_a_name_is_taken_once() -> None:
    def other(subject, *, select):
        return Ranking(scores={"layer": 1.0}, meaning="", unit="", by="rtn")

    with pytest.raises(InputError, match="there is a locator 'rtn' already: hardy.studies.fragility"):
        register_locator(Locator(name="rtn", run=other, units=("block",), summary="mine"))


PACKAGE = """
from hardy.core.locators import locator
from hardy.core.ranking import Ranking
from hardy.core.selection import select as sites_of

@locator("depth", units=("projection",), summary="how deep a layer is")
def depth(model, batches, *, select, slope: float = 1.0) -> Ranking:
    scores = {site.name: slope * site.layer for site in sites_of(model, select)}
    return Ranking(scores=scores, meaning="depth", unit="layers", by="depth")
"""


def test_another_package_brings_a_locator(micro_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "depths.py").write_text(PACKAGE)
    info = tmp_path / "depths-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: depths\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hardy.locators]\ndepths = depths\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import hardy\n"
        f"r = hardy.locate({str(micro_llama)!r}, by='depth', slope=2.0, tokens=64, window=32)\n"
        "assert max(r.scores.values()) == 2.0 and r.by == 'depth', r\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert isinstance(locate(micro_llama, by="weight-error", group_size=16), Ranking)
