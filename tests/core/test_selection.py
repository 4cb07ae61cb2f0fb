"""Names for parts of a model: roles, layers, patterns, exclusions, on every architecture that has a vocabulary."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import CONFIGS, ENCODERS, ConvNet, build, build_encoder
from torch import nn

from hardy.core import InputError, Site, all_sites, select
from hardy.core.method import from_dict
from hardy.quant import RoundToNearest


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: build(name) for name in CONFIGS}


def names(model: nn.Module, where: object = "linear,!head,!router", **options: object) -> list[str]:
    return [site.name for site in select(model, where, **options)]


def roles(model: nn.Module, layer: int | None = 1) -> dict[str, str]:
    return {site.name: site.role for site in all_sites(model) if site.role and site.layer == layer}


LLAMA_LAYER = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.o", "input_layernorm": "norm", "post_attention_layernorm": "norm",
}  # fmt: skip
MLP = {"mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down"}
EXPERTS = {
    "mlp.gate": "router",
    "mlp.experts.gate_up_proj": "experts.gate_up",
    "mlp.experts.down_proj": "experts.down",
}
LAYERS = {
    "llama": ("model.layers", LLAMA_LAYER | MLP),
    "mixtral": ("model.layers", LLAMA_LAYER | EXPERTS),
    "olmoe": ("model.layers", LLAMA_LAYER | EXPERTS | {"self_attn.q_norm": "norm", "self_attn.k_norm": "norm"}),
    "gpt2": ("transformer.h", {
        "ln_1": "norm", "attn.c_attn": "attention.qkv", "attn.c_attn:q": "attention.q",
        "attn.c_attn:k": "attention.k", "attn.c_attn:v": "attention.v", "attn.c_proj": "attention.o",
        "ln_2": "norm", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down",
    }),
    "phi3": ("model.layers", {
        "self_attn.o_proj": "attention.o", "self_attn.qkv_proj": "attention.qkv",
        "self_attn.qkv_proj:q": "attention.q", "self_attn.qkv_proj:k": "attention.k",
        "self_attn.qkv_proj:v": "attention.v", "mlp.gate_up_proj": "mlp.gate_up",
        "mlp.gate_up_proj:gate": "mlp.gate", "mlp.gate_up_proj:up": "mlp.up", "mlp.down_proj": "mlp.down",
        "input_layernorm": "norm", "post_attention_layernorm": "norm",
    }),
    "gpt_neox": ("gpt_neox.layers", {
        "input_layernorm": "norm", "post_attention_layernorm": "norm", "attention.query_key_value": "attention.qkv",
        "attention.dense": "attention.o", "mlp.dense_h_to_4h": "mlp.up", "mlp.dense_4h_to_h": "mlp.down",
    }),
    "opt": ("model.decoder.layers", {
        "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
        "self_attn.out_proj": "attention.o", "self_attn_layer_norm": "norm", "fc1": "mlp.up", "fc2": "mlp.down",
        "final_layer_norm": "norm",
    }),
    "mamba": ("backbone.layers", {
        "norm": "norm", "mixer.conv1d": "ssm.conv", "mixer.in_proj": "ssm.in", "mixer.x_proj": "ssm.x",
        "mixer.dt_proj": "ssm.dt", "mixer.out_proj": "ssm.out",
    }),
}  # fmt: skip


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_role_of_a_layer(models: dict[str, nn.Module], architecture: str) -> None:
    prefix, expected = LAYERS[architecture]
    assert roles(models[architecture]) == {f"{prefix}.1.{name}": role for name, role in expected.items()}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_head_and_embedding_of_every_architecture(models: dict[str, nn.Module], architecture: str) -> None:
    assert [site.module for site in select(models[architecture], "head")] in (["lm_head"], ["embed_out"])
    embeddings = {"gpt2": 2, "opt": 2}.get(architecture, 1)
    assert len(select(models[architecture], "embedding")) == embeddings


LINEAR_PER_LAYER = {"llama": 7, "gpt2": 6, "phi3": 7, "gpt_neox": 4, "opt": 6, "mixtral": 6, "olmoe": 6, "mamba": 4}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_default_is_every_matrix_inside_the_layers(models: dict[str, nn.Module], architecture: str) -> None:
    sites = select(models[architecture])
    assert [site.layer for site in sites] == [0] * LINEAR_PER_LAYER[architecture] + [1] * LINEAR_PER_LAYER[architecture]
    assert all(site.parameter for site in sites)
    assert {site.role for site in sites}.isdisjoint({"head", "router", "norm", "embedding", None})


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("where", ["linear", "*", "attention.qkv,attention", "linear,*.1.*", nn.Module])
def test_no_weight_is_named_twice(models: dict[str, nn.Module], architecture: str, where: object) -> None:
    if where == "attention.qkv,attention" and architecture not in {"gpt2", "phi3", "gpt_neox"}:
        pytest.skip("no fused attention")
    rows: dict[tuple[str, str], set[int]] = {}
    for site in select(models[architecture], where):
        if site.parameter:
            weight = getattr(models[architecture].get_submodule(site.module), site.parameter)
            own = set(range(*site.rows)) if site.rows else set(range(max(weight.shape)))
            taken = rows.setdefault((site.module, site.parameter), set())
            assert not own & taken, f"{site.name} overlaps an earlier site"
            taken |= own


def test_the_parts_of_a_fused_projection_cover_it_exactly(models: dict[str, nn.Module]) -> None:
    attention = [site.rows for site in select(models["phi3"], "attention.q,attention.k,attention.v", layers=0)]
    assert attention == [(0, 32), (32, 48), (48, 64)]
    assert [site.rows for site in select(models["phi3"], "mlp.gate,mlp.up", layers=0)] == [(0, 48), (48, 96)]
    assert [site.rows for site in select(models["gpt2"], "attention.q,attention.k,attention.v", layers=0)] == [
        (0, 32), (32, 64), (64, 96),
    ]  # fmt: skip


def test_a_fused_whole_wins_over_its_parts(models: dict[str, nn.Module]) -> None:
    assert names(models["gpt2"], "attention.qkv,attention.q", layers=0) == ["transformer.h.0.attn.c_attn"]
    assert names(models["gpt2"], "attention.q,attention.qkv", layers=0) == ["transformer.h.0.attn.c_attn"]


def test_excluding_a_part_leaves_the_other_parts_of_the_whole(models: dict[str, nn.Module]) -> None:
    left = ["transformer.h.0.attn.c_attn:k", "transformer.h.0.attn.c_attn:v"]
    assert names(models["gpt2"], "attention.qkv,!attention.q", layers=0) == left
    assert names(models["gpt2"], "attention,!attention.q,!attention.o", layers=0) == left


def test_excluding_the_whole_excludes_its_parts(models: dict[str, nn.Module]) -> None:
    assert names(models["gpt2"], "attention,!attention.qkv", layers=0) == ["transformer.h.0.attn.c_proj"]
    assert not [name for name in names(models["phi3"], "linear,!mlp.gate_up") if "gate_up" in name]


@pytest.mark.parametrize("where", ["linear,!head,!mlp", "!mlp,linear,!head", ["!head", "!mlp", "linear"], "!mlp"])
def test_exclusions_hold_wherever_they_stand(models: dict[str, nn.Module], where: object) -> None:
    assert {site.role for site in select(models["llama"], where)} == {f"attention.{part}" for part in "qkvo"}


def test_patterns_of_every_kind_agree(models: dict[str, nn.Module]) -> None:
    llama = models["llama"]
    down = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    for where in (
        "mlp.down",
        "model.layers.*.mlp.down_proj",
        r"re:model\.layers\.\d{1,2}\.mlp\.down_proj",
        " re:.*down_proj",
        lambda name, module: name.endswith("down_proj") and isinstance(module, nn.Linear),
        down,
        [down[1], "mlp.down"],
    ):
        assert names(llama, where) == down
    assert names(llama, nn.Embedding) == ["model.embed_tokens"]
    assert names(llama, [nn.Embedding, "head"]) == ["model.embed_tokens", "lm_head"]


def test_a_role_word_comes_before_a_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.ModuleDict({"fc1": nn.Linear(3, 3), "fc2": nn.Linear(3, 3)})
            self.head = nn.Linear(3, 3)

    assert names(Net(), "mlp") == ["mlp.fc1", "mlp.fc2"]
    assert names(Net(), "head") == ["head"]
    assert names(Net()) == ["mlp.fc1", "mlp.fc2"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("last", {1}), ("first", {0}), (0, {0}), (-1, {1}), ("-4:", {0, 1}), ("1:", {1}), ("0,1", {0, 1}), ("::2", {0})],
)
def test_layers(models: dict[str, nn.Module], layers: object, expected: set[int]) -> None:
    assert {site.layer for site in select(models["llama"], "mlp", layers=layers)} == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (2, "there is no layer 2; the model has layers 0 to 1"),
        ("0,-3", "there is no layer -3"),
        ("2:", "layers '2:' matches nothing"),
        ("", "is not understood"),
        ("middle", "is not understood"),
        ("::0", "is not understood"),
        (True, "is not understood"),
    ],
)
def test_layers_out_of_range(models: dict[str, nn.Module], layers: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(models["llama"], "mlp", layers=layers)


def test_a_model_without_layers_says_so() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(3, 3)

    with pytest.raises(InputError, match="the model has no layers"):
        select(Net(), "encoder", layers="last")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mlp.dwon", "did you mean mlp.down"),
        ("mlp,!haed", "'!haed' matches nothing.*did you mean head"),
        ("router", "the roles in this model are"),
        ("model.layers.*.mlp.down", "matches nothing"),
        ("re:(", "is not a regular expression"),
        (nn.Conv2d, "selection 'Conv2d' matches nothing"),
        ("", "is empty"),
        ([], "is empty"),
        (3, "a selection is a string"),
        ("linear,!linear", "matches nothing"),
    ],
)
def test_what_matches_nothing_is_refused(models: dict[str, nn.Module], where: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(models["llama"], where)


def test_a_role_that_the_model_lacks_may_be_excluded(models: dict[str, nn.Module]) -> None:
    assert names(models["llama"], "mlp,!router,!ssm") == names(models["llama"], "mlp")


def test_plain_modules() -> None:
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert names(mlp) == ["0", "2"]
    assert [site.layer for site in select(mlp)] == [0, 2]
    net = ConvNet()
    assert names(net, "conv") == ["features.0", "features.2"]
    assert names(net, "conv,linear") == ["features.0", "features.2", "classifier"]
    with pytest.raises(InputError, match="matches nothing in Linear"):
        select(nn.Linear(2, 2))


def test_sites_are_plain_data(models: dict[str, nn.Module]) -> None:
    site = select(models["phi3"], "attention.k", layers=1)[0]
    assert Site(**dataclasses.asdict(site)) == site
    assert hash(site) == hash(dataclasses.replace(site))
    assert site.short_name == "layer 1 attention.k"
    assert select(models["phi3"], "head")[0].short_name == "lm_head"


@given(chosen=st.sets(st.integers(0, 1000), min_size=1), excluded=st.sets(st.integers(0, 1000)), seed=st.randoms())
def test_selection_is_set_arithmetic_in_model_order(chosen: set[int], excluded: set[int], seed: object) -> None:
    model = nn.Sequential(*(nn.Identity() for _ in range(20)))
    chosen, excluded = {i % 20 for i in chosen}, {i % 20 for i in excluded}
    patterns = [*(str(i) for i in chosen), *(f"!{i}" for i in excluded)]
    seed.shuffle(patterns)
    expected = [str(i) for i in sorted(chosen - excluded)]
    if expected:
        assert names(model, ",".join(patterns)) == names(model, patterns) == expected
    else:
        with pytest.raises(InputError):
            select(model, patterns)


@given(
    begin=st.integers(-12, 12) | st.none(), end=st.integers(-12, 12) | st.none(), step=st.sampled_from([None, 1, 2, -1])
)
def test_layer_slices_are_pythons(begin: int | None, end: int | None, step: int | None) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    spec = ":".join("" if part is None else str(part) for part in (begin, end, step))
    expected = set(range(8)[slice(begin, end, step)])
    if expected:
        assert {site.layer for site in select(model, "linear", layers=spec)} == expected
    else:
        with pytest.raises(InputError, match="matches nothing"):
            select(model, "linear", layers=spec)


def test_conv1d_is_linear_and_depthwise_convolution_is_not(models: dict[str, nn.Module]) -> None:
    assert "transformer.h.0.mlp.c_fc" in names(models["gpt2"], "linear")
    assert "backbone.layers.0.mixer.conv1d" not in names(models["mamba"], "linear")
    assert "backbone.layers.0.mixer.conv1d" in names(models["mamba"], "conv")
    assert torch.is_tensor(models["gpt2"].transformer.h[0].mlp.c_fc.weight)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((0, 2), {0, 2}), ([0, -1], {0, 7}), (range(2, 5), {2, 3, 4}), (range(0, 8, 3), {0, 3, 6}),
        (np.int64(3), {3}), (np.arange(2), {0, 1}), (("last", "1:3", 0), {7, 1, 2, 0}), (torch.tensor(4), {4}),
        ([np.int32(1), "-2:"], {1, 6, 7}),
    ],
)  # fmt: skip
def test_layers_may_be_numbers_of_any_kind_and_sequences(layers: object, expected: set[int]) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    assert {site.layer for site in select(model, "linear", layers=layers)} == expected


@pytest.mark.parametrize("layers", [(0, 9), [True], (0, None), (1.5,), ("0", "middle"), object()])
def test_sequences_of_layers_that_are_none(layers: object) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    with pytest.raises(InputError, match="there is no layer 9|is not understood; give first, last, an index, a slice"):
        select(model, "linear", layers=layers)


def test_layers_of_a_method_are_kept_as_they_can_be_stored() -> None:
    method = RoundToNearest(bits=4, layers=range(0, 3, 2))
    assert method.layers == (0, 2)
    assert from_dict(json.loads(json.dumps(method.to_dict()))) == method


@pytest.mark.parametrize("architecture", list(ENCODERS))
def test_encoders_have_every_role(architecture: str) -> None:
    model = build_encoder(architecture)
    two = architecture in {"t5", "whisper"}
    in_layers = [site for site in select(model, "linear") if site.layer is not None]
    assert {site.layer for site in in_layers} == {0, 1}
    assert {site.stack for site in in_layers} == ({"encoder", "decoder"} if two else {""})
    for stack in {site.stack for site in in_layers}:
        roles = [site.role for site in in_layers if site.layer == 1 and site.stack == stack]
        expected = [f"attention.{part}" for part in "qkvo"] + ["mlp.up", "mlp.down"]
        if stack == "decoder":
            expected += [f"cross_attention.{part}" for part in "qkvo"]
        assert sorted(roles) == sorted(expected)


@pytest.mark.parametrize("architecture", ["t5", "whisper"])
def test_layers_of_one_stack(architecture: str) -> None:
    model = build_encoder(architecture)
    everywhere = select(model, "attention.q", layers=0)
    assert [site.short_name for site in everywhere] == ["encoder layer 0 attention.q", "decoder layer 0 attention.q"]
    for layers in ("decoder:0", "decoder:first", "decoder:-2", "decoder:0:1", ["decoder:0"], ("decoder:-2",)):
        assert select(model, "attention.q", layers=layers) == [everywhere[1]]
    assert select(model, "attention.q", layers="encoder:0, decoder:0") == everywhere
    assert len(select(model, "attention.q", layers="last")) == 2
    assert len(select(model, "attention.q", layers="encoder:last,0")) == 3
    with pytest.raises(InputError, match="there is no stack 'coder'.*; the stacks are encoder, decoder"):
        select(model, "attention.q", layers="coder:0")
    with pytest.raises(InputError, match="there is no layer 2; the model has layers 0 to 1"):
        select(model, "attention.q", layers="decoder:2")
    with pytest.raises(InputError, match="there is no stack 'decoder'; the model has one stack only"):
        select(build("llama"), "attention.q", layers="decoder:0")


def test_stacks_are_named_by_what_tells_them_apart() -> None:
    def stack(count: int, *names: str) -> nn.ModuleDict:
        layers = [nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(2, 2)})}) for _ in range(count)]
        tree: nn.Module = nn.ModuleList(layers)
        for name in reversed(names):
            tree = nn.ModuleDict({name: tree})
        return tree

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision = stack(2, "tower", "blocks")
            self.language = stack(3, "model", "layers")
            self.patches = nn.Sequential(nn.Linear(2, 2))

    labels = {site.name: site.stack for site in select(Both(), "linear")}
    assert labels["vision.tower.blocks.1.self_attn.q_proj"] == "vision.tower.blocks"
    assert labels["language.model.layers.2.self_attn.q_proj"] == "language.model.layers"
    assert labels["patches.0"] == "patches"
    assert [s.layer for s in select(Both(), "linear", layers="language:last")] == [2]
    assert [s.name for s in select(Both(), "linear", layers="vision:0")] == ["vision.tower.blocks.0.self_attn.q_proj"]


class Experts(nn.Module):
    """A mixture whose experts are modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        layer = lambda: nn.ModuleDict(  # noqa: E731
            {
                "self_attn": nn.ModuleDict({"q_proj": nn.Linear(2, 2)}),
                "mlp": nn.ModuleDict(
                    {"experts": nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(2, 2)}) for _ in range(11)])}
                ),
            }
        )
        self.layers = nn.ModuleList([layer(), layer()])


def test_each_expert_has_a_number_and_a_name() -> None:
    sites = select(Experts(), "experts", layers=1)
    assert [site.expert for site in sites] == list(range(11))
    assert sites[10].short_name == "layer 1 experts.gate[10]"
    assert len({site.short_name for site in select(Experts())}) == 2 * 12
