"""Effective rank and energy gain: against singular values of outputs that are formed, and what must be refused."""

import math
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import CONFIGS, ConvNet, build, same_bytes
from reference.spectra import compactness, singular_values, top_share
from torch import nn

from hardy.core import InputError, generator, select
from hardy.hooks.statistics import SecondMoment, observe
from hardy.ops import plane_layout
from hardy.quant import effective_rank, energy_gain, spectral
from hardy.quant.importance import layer_importance
from hardy.quant.spectral import Inputs, effective_rank_of, moments, top_energy

ENERGIES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def text() -> torch.Tensor:
    """(2, 40) token ids: 80 tokens, more than the tiny models are wide."""
    return torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 6)])
def test_energies_are_squared_singular_values_of_the_outputs(shape: tuple[int, int]) -> None:
    weight, inputs = random(*shape), random(9, shape[1], seed=1)
    energies = Inputs((inputs.T @ inputs).double()).energies([weight], shape[0]).flip(0).tolist()
    values = singular_values(inputs, weight)
    assert energies == pytest.approx([value**2 for value in values], rel=1e-4, abs=1e-4)
    assert effective_rank_of(torch.tensor(energies)) == pytest.approx(compactness(values), rel=1e-4)
    assert top_energy(torch.tensor(energies)) == pytest.approx(top_share(values), rel=1e-4)


@given(energies=ENERGIES, scale=st.floats(1e-3, 1e3))
def test_effective_rank_is_between_one_and_all_whatever_the_scale(energies: list[float], scale: float) -> None:
    given = torch.tensor(energies, dtype=torch.float64)
    rank = effective_rank_of(given)
    assert 1 - 1e-9 <= rank <= len(energies) * (1 + 1e-9)
    assert effective_rank_of(given * scale) == pytest.approx(rank)
    assert effective_rank_of(torch.cat([given, torch.zeros(3)])) == pytest.approx(rank)
    assert rank == pytest.approx(compactness([energy**0.5 for energy in energies]))


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank_of(torch.ones(7)) == pytest.approx(7)
    assert effective_rank_of(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank_of(torch.tensor([1.0, 1, 1, 1, 0, 0])) == pytest.approx(4)


@pytest.mark.parametrize(("count", "k"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_top_tenth_is_rounded_up(count: int, k: int) -> None:
    assert top_energy(torch.ones(count)) == pytest.approx(k / count)


class Two(nn.Module):
    """Two blocks of one linear layer each: one that passes everything, one that passes a single direction."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(12, 12, bias=False)}) for _ in range(2))
        with torch.no_grad():
            self.blocks[0].mlp.weight.copy_(torch.eye(12))
            self.blocks[1].mlp.weight.copy_(torch.outer(random(12), random(12, seed=1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.blocks[0].mlp(x) + self.blocks[1].mlp(x)


def test_a_layer_of_low_rank_ranks_above_one_of_full_rank() -> None:
    for locate in (effective_rank, energy_gain):
        ranking = locate(Two(), [random(100, 12)])
        assert ranking.order() == ["blocks.1.*", "blocks.0.*"]
    scores = effective_rank(Two(), [random(100, 12)]).scores
    assert scores["blocks.1.*"] > 0.8
    assert scores["blocks.0.*"] < 0  # the identity spreads white inputs better than random weights do


def test_scores_are_those_of_outputs_that_are_formed(text: torch.Tensor) -> None:
    """On a Llama: queries by head, the rest whole, mean over seeds; a block is the mean of its projections."""
    model = build("llama")
    inputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, given, __: inputs.__setitem__(name, given[0].detach().flatten(0, -2))

    handles = [
        model.get_submodule(site.module).register_forward_hook(keep(site.name))
        for site in select(model, "linear,!head")
    ]
    with torch.no_grad():
        model(text)
    for handle in handles:
        handle.remove()
    drops, gains = (
        effective_rank(model, [text], unit="projection", seeds=(3, 4)),
        energy_gain(model, [text], seeds=(3, 4)),
    )
    expected: dict[str, tuple[float, float]] = {}
    for site in select(model, "linear,!head"):
        weight = model.get_submodule(site.module).weight.detach()
        heads = 8 if site.role in {"attention.q", "attention.k", "attention.v"} else len(weight)  # rows of a head
        drop, gain, count = 0.0, 0.0, 0
        for seed in (3, 4):
            reference = torch.randn(weight.shape, generator=generator(seed, "random-reference", site.name))
            for begin in range(0, len(weight), heads):
                trained = singular_values(inputs[site.name], weight[begin : begin + heads])
                untrained = singular_values(inputs[site.name], 0.02 * reference[begin : begin + heads])
                drop += (compactness(untrained) - compactness(trained)) / compactness(untrained)
                gain += top_share(trained) - top_share(untrained)
                count += 1
        expected[site.name] = (drop / count, gain / count)
    assert list(drops.scores) == list(expected)
    for name, (drop, _) in expected.items():
        assert drops.scores[name] == pytest.approx(drop, abs=1e-4)
    for layer in (0, 1):
        members = [gain for name, (_, gain) in expected.items() if f".{layer}." in name]
        assert gains.scores[f"model.layers.{layer}.*"] == pytest.approx(sum(members) / len(members), abs=1e-4)


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_every_architecture_gets_its_blocks_ranked(architecture: str, text: torch.Tensor) -> None:
    model = build(architecture)
    for locate in (effective_rank, energy_gain):
        ranking = locate(model, [text], seeds=(0,))
        assert len(ranking) == 2
        for name in ranking.scores:
            assert {site.layer for site in select(model, name)} == {int(name.split(".")[-2])}


def test_routed_experts_are_left_out_and_alone_refused(text: torch.Tensor) -> None:
    model = build("mixtral")
    assert not any("experts" in name for name in effective_rank(model, [text], unit="projection").scores)
    with pytest.raises(InputError, match="'experts' holds only what this locator leaves out: experts, ssm.dt"):
        effective_rank(model, [text], select="experts")


def test_parts_of_a_fused_projection_count_apart(text: torch.Tensor) -> None:
    scores = effective_rank(build("gpt2"), [text], unit="projection").scores
    assert {f"transformer.h.0.attn.c_attn:{part}" for part in "qkv"} <= set(scores)


def test_the_same_seeds_give_the_same_scores_and_no_global_draw(text: torch.Tensor) -> None:
    model, state = build("llama"), torch.get_rng_state()
    first = effective_rank(model, [text])
    torch.manual_seed(77)
    assert effective_rank(model, iter([text])) == first
    assert effective_rank(model, [text], seeds=(9,)) != first
    torch.set_rng_state(state)
    assert effective_rank(model, [text[:1], text[1:]]).scores == pytest.approx(dict(first.scores), abs=1e-4)


def test_the_model_is_left_as_it_was(text: torch.Tensor) -> None:
    model = build("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    effective_rank(model, [text])
    assert all(same_bytes(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_text_shorter_than_the_width_is_refused_with_how_much_is_needed(text: torch.Tensor) -> None:
    with pytest.raises(InputError, match="text of 31 tokens is too short: .*q_proj, 32 x 32, needs at least 32"):
        effective_rank(build("llama"), [text[:1, :31]])
    effective_rank(build("llama"), [text[:1, :32]])
    model = build("llama")
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was run before the text was looked at"))
    for locate in (effective_rank, layer_importance):
        with pytest.raises(InputError, match="too short"):
            locate(model, [text[:1, :31]])


def test_what_cannot_be_ranked_is_refused(text: torch.Tensor) -> None:
    model = build("llama")
    with pytest.raises(
        InputError, match="unit must be block or projection or role or expert, got 'blocks'; did you mean block"
    ):
        effective_rank(model, [text], unit="blocks")
    with pytest.raises(InputError, match="at least one random reference, got none"):
        effective_rank(model, [text], seeds=())
    with pytest.raises(InputError, match="no batches"):
        energy_gain(model, [])
    with pytest.raises(InputError, match="embed_tokens is a Embedding; this locator takes linear layers"):
        effective_rank(model, [text], select="embedding")
    with pytest.raises(InputError, match="is a Conv2d"):
        effective_rank(ConvNet(), [random(4, 3, 8, 8)], select="conv")
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.down_proj").weight.zero_()
    with pytest.raises(InputError, match="outputs of model.layers.1.mlp.down_proj are all zero"):
        effective_rank(model, [text])
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.down_proj").weight.fill_(math.nan)
    with pytest.raises(InputError, match="NaN or infinit"):
        effective_rank(model, [text])


class Idle(Two):
    """The second block is never run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.blocks[0].mlp(x)


def test_a_layer_that_was_not_run_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="blocks.1.mlp was not run by the model"):
        effective_rank(Idle(), [random(100, 12)])


def test_bfloat16_ranks_like_float32(text: torch.Tensor) -> None:
    exact = effective_rank(build("llama"), [text]).scores
    rounded = effective_rank(build("llama", dtype=torch.bfloat16), [text]).scores
    assert dict(rounded) == pytest.approx(dict(exact), abs=0.05)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_the_moments_of_one_block_at_a_time_are_those_of_a_run_of_the_whole(
    architecture: str, text: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(architecture)
    sites = [site for site in select(model, "linear") if site.role != "ssm.dt"]
    whole = observe(model, [text[:1], text[1:]], [site.name for site in sites], [SecondMoment])
    alive: weakref.WeakSet[SecondMoment] = weakref.WeakSet()

    class Counted(SecondMoment):
        def __init__(self) -> None:
            super().__init__()
            alive.add(self)

    monkeypatch.setattr(spectral, "SecondMoment", Counted)
    counts = []
    for site, moment in moments(model, [text[:1], text[1:]], sites):
        counts.append(len(alive))
        assert torch.equal(moment.value, whole[site.name][0].value), site.name
    assert len(counts) == len(sites)
    assert max(counts) <= len(sites) // 2 + 1, "two blocks at once"


def test_a_tall_weight_scores_alike_in_pieces(text: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = effective_rank(build("llama"), [text], unit="projection").scores
    monkeypatch.setattr(plane_layout, "AT_A_TIME", 64)
    assert effective_rank(build("llama"), [text], unit="projection").scores == pytest.approx(whole, abs=1e-12)
