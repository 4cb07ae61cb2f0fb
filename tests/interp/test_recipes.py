"""Every triple of object, family of locators and family of steerers runs, or is refused with its reason."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import assert_same, snapshot
from test_sae import small
from test_sae import task as other_task

from hardy import hooks
from hardy.core import Ranking
from hardy.errors import InputError
from hardy.interp import Task, circuit, recipes
from hardy.interp.circuit import EdgePatched, Graph
from hardy.interp.edge_search import PathPatching, acdc, learned_masks
from hardy.interp.recipes import FAMILIES, OBJECTS, STEERERS

PAGE = Path(__file__).parents[2] / "docs" / "interpret.md"
OPTIONS: dict[str, dict[str, Any]] = {
    "probing": {"folds": 3, "shuffles": 1, "probe": "mass-mean"},
    "acdc": {"threshold": 0.05},
    "masks": {"steps": 3},
    "eap": {"steps": 1},
}


def task() -> Task:
    """Clean and corrupt prompts that differ from the first token on, so that all streams do."""
    given = other_task()
    corrupt = given.clean.clone()
    corrupt[:, 0] = (corrupt[:, 0] + 7) % 60 + 3
    return Task(given.clean, given.right, given.wrong, corrupt)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, dict[tuple[str, str], Ranking | str]]:
    """The model, the folder of its autoencoder, and all rankings, or why there is none."""
    model, sae = models.build("llama"), small(width=16)
    folder = str(sae.save(tmp_path_factory.mktemp("sae")))
    found: dict[tuple[str, str], Ranking | str] = {}
    with sae.attached(model):
        for object in OBJECTS:
            for family in FAMILIES:
                try:
                    by = recipes.how(object, family, "amplitude").by
                    found[object, family] = recipes.rank(model, task(), object, family, **OPTIONS.get(by, {}))
                except InputError as error:
                    found[object, family] = str(error)
    return model, folder, found


def test_all_triples_run_or_say_why_not(ranked: Any) -> None:
    model, folder, rankings = ranked
    before = snapshot(model)
    settings: dict[str, dict[str, Any]] = {"MaskedFineTuning": {"steps": 1}, "LoReFT": {"steps": 1, "rank": 1}}
    ran = 0
    for object in OBJECTS:
        for family in FAMILIES:
            for steerer in STEERERS:
                ranking = rankings[object, family]
                if isinstance(ranking, str):
                    with pytest.raises(InputError) as refusal:
                        recipes.how(object, family, steerer)
                    assert object in str(refusal.value)
                    continue
                if (object, steerer) in recipes._NO_STEERER:
                    with pytest.raises(InputError, match=object):
                        recipes.how(object, family, steerer)
                    continue
                kind = recipes.how(object, family, steerer).method
                more = settings.get(kind.__name__, {})
                k = 60 if object == "circuit" else 1
                method = recipes.make(model, task(), ranking, steerer, k=k, sae=folder * (object == "feature"), **more)
                assert type(method) is kind
                with method.apply(model, [task().clean]), torch.no_grad():
                    assert torch.isfinite(model(input_ids=task().clean).logits).all()
                ran += 1
    assert ran == sum(
        (o, f) not in recipes._NO_LOCATOR and (o, s) not in recipes._NO_STEERER
        for o in OBJECTS for f in FAMILIES for s in STEERERS
    )  # fmt: skip
    assert ran >= 85
    assert_same(before, model)


def test_the_page_has_the_table() -> None:
    assert recipes.table() in PAGE.read_text(encoding="utf-8")


def test_path_patching_is_the_run_with_one_edge_changed() -> None:
    model, given = models.build("llama"), task()
    graph = Graph.of(model)
    found = PathPatching(object="head").effects(model, given)
    assert len(found) == 8
    with torch.no_grad(), hooks.record(model, ["blocks.1.attn.result"]) as clean:
        model(input_ids=given.clean)
    with torch.no_grad(), hooks.record(model, ["blocks.1.attn.result"]) as corrupt:
        model(input_ids=given.corrupt)
    swapped = corrupt["blocks.1.attn.result"][:, :, 3] - clean["blocks.1.attn.result"][:, :, 3]
    with torch.no_grad(), hooks.patch(model, {"blocks.1.resid_post": lambda x: x + swapped}):
        direct = given.score(model(input_ids=given.clean).logits)
    patched = EdgePatched(model, graph, given)
    effect = (patched.clean_score - patched.corrupt_score).double().mean()
    expected = ((patched.clean_score - direct).double().mean() / effect).item()
    assert found["blocks.1.attn.z.3"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="receiver must be one of"):
        PathPatching(receiver="blocks.9.mlp").effects(model, given)


def test_acdc_keeps_the_effect_that_it_says_and_masks_close() -> None:
    model, given = models.build("llama"), task()
    found = acdc(model, given, threshold=0.02)
    kept = found.scores != 0
    assert 0 < int(kept.sum()) < found.graph.edges
    patched = EdgePatched(model, found.graph, given)
    with torch.no_grad():
        left = patched.scores((~kept & found.graph.possible).float()).double().mean()
    lost = (patched.clean_score.double().mean() - left) / (patched.clean_score - patched.corrupt_score).double().mean()
    assert abs(lost.item()) < 0.02 * found.graph.edges
    masks = learned_masks(model, given, steps=60, sparsity=200.0)
    inside = masks.scores[masks.graph.possible]
    assert inside.mean() < 0.8  # they start at 0.93 open
    assert (masks.scores[~masks.graph.possible] == 0).all()
    curve = circuit.faithfulness(model, given, masks.top, masks.graph, sizes=(1.0,))
    assert curve.values[-1] == pytest.approx(1.0, abs=1e-4)
