"""One fact at a time: the rank-one formula against its own definition, and an edit that lands."""

import pytest
import torch
from models import assert_same, build, snapshot

from hardy.errors import InputError
from hardy.interp import ROME
from hardy.interp.rome import rank_one, second_moment


def test_the_formula_maps_the_key_and_moves_other_keys_least() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, key, value = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((6, 5), (5,), (6,)))
    keys = torch.randn(40, 5, generator=draw, dtype=torch.float64)
    moment = keys.mT @ keys / 40
    for c in (None, moment):
        torch.testing.assert_close(rank_one(weight, key, value, c) @ key, value)
    # The least sum of squares over the keys among all changes that map the key: any other such change costs more.
    new = rank_one(weight, key, value, moment)
    cost = ((new - weight) @ keys.mT).square().sum()
    for _ in range(5):
        other = torch.randn(6, 5, generator=draw, dtype=torch.float64)
        other -= torch.outer(other @ key, key) / (key @ key)  # maps the key to nothing
        assert ((new + 0.1 * other - weight) @ keys.mT).square().sum() > cost


def test_the_moment_is_that_of_the_keys(ids: torch.Tensor) -> None:
    model = build("llama")
    name = "model.layers.0.mlp.down_proj"
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda m, a: kept.append(a[0]))
    with torch.no_grad():
        model(ids)
    handle.remove()
    keys = kept[0].flatten(0, 1).double()
    expected = keys.mT @ keys / len(keys)
    found = second_moment(model, name, [ids], damping=0.1)
    torch.testing.assert_close(found, expected + 0.1 * expected.diagonal().mean() * torch.eye(len(expected)).double())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_the_target_follows_after_the_edit(architecture: str) -> None:
    model = build(architecture)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # so that what one position holds reaches the others
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    before = snapshot(model)
    # One position, so that no other key is moved along: what is found is what the edited model says.
    prompt, other = torch.tensor([[23]]), torch.tensor([[24]])
    method = ROME(prompt=(23,), subject=0, target=(33,), layer=0, steps=40, clamp=4.0, weight_decay=0.0)
    with torch.no_grad():
        first, elsewhere = (model(ids).logits[0, -1].log_softmax(-1)[33].item() for ids in (prompt, other))
    with method.apply(model, [torch.arange(3, 63).reshape(4, 15)]) as change, torch.no_grad():
        now, there = (model(ids).logits[0, -1].log_softmax(-1)[33].item() for ids in (prompt, other))
        assert now > first + 0.5
        assert now == pytest.approx(change.report.value("target_log_probability", "with the value found"), abs=1e-3)
        assert now - first > there - elsewhere
    assert_same(before, model)


def test_what_is_no_edit_is_refused() -> None:
    class Letters:
        def __call__(self, text: str, **_: object) -> object:
            return type("Ids", (), {"input_ids": [ord(c) % 64 for c in text]})

    made = ROME.of(Letters(), "The {} is", "cat", " d", layer=1)
    assert made.prompt[made.subject] == ord("t") % 64
    assert made.subject == 6
    with pytest.raises(InputError, match="one {} for the subject"):
        ROME.of(Letters(), "The cat is", "cat", " d", layer=1)
    with pytest.raises(InputError, match="0 to 1, got 7"):
        ROME(prompt=(3, 4), subject=0, target=(5,), layer=7).apply(build("llama"))
    with pytest.raises(InputError, match="no single down projection"):
        ROME(prompt=(3, 4), subject=0, target=(5,), layer=0).apply(build("olmoe"))
