"""One entry per method: how the contract matrix builds it. A new method gets its entry here and nowhere else."""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hardy.analog import (
    Deploy,
    ExpertReplacement,
    HybridProjection,
    NoiseAware,
    RandomReplacement,
    Redundancy,
    RouterCalibration,
)
from hardy.core import Chain, Method, Ranking
from hardy.hardware import AdditiveNoise, Chip, LogNormalNoise, ProportionalNoise
from hardy.interp import (
    MEMIT,
    ROME,
    SAE,
    AblatedWeights,
    AlphaEdit,
    Amplitude,
    BakedVector,
    DirectionalAblation,
    DoLa,
    HeadVectors,
    LayerSkip,
    LoReFT,
    MaskedFineTuning,
    SteeringVector,
    TaskVectors,
    Unlearning,
)
from hardy.quant import (
    GPTQ,
    AbsmeanTrits,
    AsymmetricTrits,
    BinaryWeights,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    LayerBits,
    Pack,
    RoundToNearest,
    TritPlanes,
    TunedScales,
    Unpack,
)


@dataclass(frozen=True)
class Case:
    """What the matrix needs to know about one method.

    Args:
        typical: an instance as users would make it; it changes the model.
        refused: fields of which each alone, put into `typical`, is out of range.
        reseeded: the same with another seed, or None if nothing is drawn.
        identity: the same at zero strength, or None if there is no such setting; then `no_identity` says why.
        control: the naive way at the same budget, which must be worse on the model; or None and `no_control`.
        after: what is applied to the model beforehand, for a method that goes on where another stopped.
        model: name of the zoo model it is applied to.
        lower_error: whether it is also nearer to the weights than its control; not what calibration is for.
        weights_stay: whether it leaves weights alone and changes what is computed with them, at least in training mode.
    """

    typical: Method
    refused: dict[str, list[Any]]
    reseeded: Method | None = None
    identity: Method | None = None
    no_identity: str = ""
    control: Method | None = None
    no_control: str = ""
    after: Method | None = None
    model: str = "tiny-llama"
    lower_error: bool = True
    weights_stay: bool = False
    unsaved: str = ""
    """Why what it leaves in the model cannot be stored, where the layers say so and not the method."""


def _noise(kind: Callable[..., Method], **values_and_refused: tuple[Any, list[Any]]) -> Case:
    fields = {name: value for name, (value, _) in values_and_refused.items()}
    return Case(
        typical=kind(strength=0.05, seed=1, **fields),
        refused={"strength": [-0.1, float("nan"), float("inf"), "0.1", True], "seed": [1.5, True, None]}
        | {name: bad for name, (_, bad) in values_and_refused.items()},
        reseeded=kind(strength=0.05, seed=2, **fields),
        identity=kind(strength=0.0, seed=1, **fields),
        no_control="it describes what a chip does to weights; doing it naively is not something one could choose",
    )


def _deploy(chip: str, **fields: Any) -> Deploy:
    # Without read noise, so that the matrix can compare what is computed byte by byte.
    return Deploy(chip=Chip.preset(chip).without_periphery(), **fields)


_RTN = RoundToNearest(bits=3, group_size=16)
_TRITS = TritPlanes(planes=2, group_size=16)
_ROTATION_REFUSED = [-1, 12, 16.0, True]
_RTN_REFUSED = {
    "bits": [1, 9, 4.0, True, "4"],
    "group_size": [0, -1, 2.5, True],
    "rotation": _ROTATION_REFUSED,
    "symmetric": [0, None],
}

# tiny-llama's blocks by the increase of the loss without each, on calibration text.
_BLOCKS = Ranking(
    scores={f"model.layers.{i}.*": s for i, s in enumerate((7.33, 0.84, 0.04, 0.46, 0.09, 0.18, 0.47, 3.33))},
    meaning="increase of the loss when this block is replaced by the identity",
    unit="nats/token",
    by="perplexity-drop",
)


def _layer_bits(ranking: Ranking) -> LayerBits:
    return LayerBits(budget=2.7, low=RoundToNearest(bits=2), high=RoundToNearest(bits=4), ranking=ranking)


_CALIBRATED_REFUSED = {
    "group_size": [0, -1, 2.5, True],
    "rotation": _ROTATION_REFUSED,
    "damping": [-0.1, 1.5, float("nan"), "0.1", True],
    "correction": [-0.1, 1.5, float("nan"), "0.1", True],
    "order": ["random", None, 1],
}

_VECTOR = tuple(0.1 * ((7 * i) % 11 - 5) for i in range(256))  # as wide as tiny-llama
_VECTORS_REFUSED = ["north", (float("nan"),), (0.0, 0.0)]
_EXPLAINED = "what it does to a behaviour is shown on tasks; as harm to a text, less is always better"
_STRENGTHS = [-0.1, 1.5, float("nan"), "0.1", True]
_SCALES = [float("nan"), float("inf"), "0.1", True]

_FILES = Path(tempfile.mkdtemp(prefix="hardy-contract-"))


def _sae_folder() -> str:
    """A sparse autoencoder as wide as tiny-llama's stream, of random directions."""
    draw = torch.Generator().manual_seed(0)
    decoder = torch.randn(64, 256, generator=draw)
    sae = SAE(decoder.mT.clone(), decoder, torch.zeros(64), torch.zeros(256), "blocks.3.resid_post", "tiny-llama", k=8)
    return str(sae.save(_FILES / "sae"))


def _task_vector() -> str:
    """A change of one matrix of tiny-llama, as `write_task_vector` has it."""
    change = 0.01 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    metadata = {"format": "hardy-task-vector", "version": "1"}
    save_file({"model.layers.2.self_attn.o_proj.weight": change}, _FILES / "task.safetensors", metadata)
    return str(_FILES / "task.safetensors")


def _rows(count: int, scale: float = 1.0) -> tuple[tuple[float, ...], ...]:
    """Orthonormal rows as wide as tiny-llama, times a scale."""
    return tuple(tuple(scale * float(i == j) for i in range(256)) for j in range(count))


_HEADS = ("blocks.2.attn.z.1", "blocks.5.attn.z.0")
_FACT = ROME(prompt=(5, 6, 7, 8), subject=2, target=(9,), layer=3, steps=3)
_OTHER_FACT = ROME(prompt=(11, 12, 13), subject=1, target=(19,), layer=3, steps=3)
_UNITS_REFUSED = [(), ("nothing",), (3,)]
_FACTS_REFUSED = {"facts": [(), ("Rome",), 3], "layers": [(), (-1,), (1.5,), 3]}
_TRAINED = "what it trains towards is another aim than the text's"

_EXPERT_NOISE = AdditiveNoise(strength=0.15, select="experts", seed=1)
_GUARD_REFUSED = {"noise": ["pcm", None, _RTN], "seeds": [(), (1.5,), (True,), 3, None]}

CASES: dict[type[Method], Case] = {
    SteeringVector: Case(
        typical=SteeringVector(vector=_VECTOR, layer=3),
        refused={
            "vector": _VECTORS_REFUSED,
            "layer": [-1, 2.5, True, "3"],
            "scale": _SCALES,
            "positions": ["first", None, 1],
            "keep_norm": [0, None, "yes"],
            "above": [1.5, -2, float("nan"), "0.1", True],
            "condition": _VECTORS_REFUSED,
        },
        identity=SteeringVector(vector=_VECTOR, layer=3, scale=0.0),
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    DirectionalAblation: Case(
        typical=DirectionalAblation(direction=_VECTOR),
        refused={"direction": _VECTORS_REFUSED, "strength": _STRENGTHS},
        identity=DirectionalAblation(direction=_VECTOR, strength=0.0),
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    BakedVector: Case(
        typical=BakedVector(vector=_VECTOR, layer=3),
        refused={"vector": _VECTORS_REFUSED, "layer": [-1, 2.5, True, "3"], "scale": _SCALES},
        identity=BakedVector(vector=_VECTOR, layer=3, scale=0.0),
        no_control=_EXPLAINED,
    ),
    AblatedWeights: Case(
        typical=AblatedWeights(direction=_VECTOR),
        refused={"direction": _VECTORS_REFUSED, "strength": _STRENGTHS},
        identity=AblatedWeights(direction=_VECTOR, strength=0.0),
        no_control=_EXPLAINED,
    ),
    Amplitude: Case(
        typical=Amplitude(units=(*_HEADS, "blocks.3.resid_post.feature.5"), scale=3.0, sae=_sae_folder()),
        refused={
            "units": [*_UNITS_REFUSED, ("blocks.3.attn.z.1@-1",)],
            "scale": _SCALES,
            "value": [float("nan"), "0.1", True],
            "sae": [3, None],
        },
        identity=Amplitude(units=_HEADS, scale=1.0),
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    LayerSkip: Case(
        typical=LayerSkip(layers=(3, 4)),
        refused={"layers": [(0,), (-1,), (1.5,), 3]},
        identity=LayerSkip(layers=()),
        no_control="skipping by block influence is judged against random blocks where the ranking is",
        weights_stay=True,
    ),
    HeadVectors: Case(
        typical=HeadVectors(heads=_HEADS, vectors=tuple(tuple(0.1 * (i + j) for i in range(1, 65)) for j in (0, 1))),
        refused={
            "heads": [("blocks.3.resid_post",), ("blocks.3.attn.z.1@-1", "x"), 3],
            "vectors": [("north",), ((1.0,),)],
            "scale": _SCALES,
        },
        identity=HeadVectors(heads=_HEADS, vectors=((0.1,) * 64, (0.2,) * 64), scale=0.0),
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    DoLa: Case(
        typical=DoLa(layers=(1, 3), plausible=1e-6),
        refused={"layers": [(), (-1,), (1.5,), 3], "plausible": [0, 1.5, "0.1", True]},
        no_identity="a contrast with another block is never nothing",
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    LoReFT: Case(
        typical=LoReFT(rotation=_rows(2), weight=_rows(2, 3.0), bias=(0.5, -0.5), layer=3, positions="all"),
        refused={
            "rotation": [3, ("north", "south")],
            "weight": [3, ("north", "south")],
            "bias": [3, ("0.1", 1.0), (0.5,)],
            "layer": [-1, 2.5, True, "3"],
            "positions": ["first", None, 1],
            "strength": _SCALES,
        },
        identity=LoReFT(rotation=_rows(2), weight=_rows(2, 3.0), bias=(0.5, -0.5), layer=3, strength=0.0),
        no_control=_EXPLAINED,
        weights_stay=True,
    ),
    TaskVectors: Case(
        typical=TaskVectors(files=(_task_vector(),)),
        refused={
            "files": [(), (3,), "one"],
            "scale": _SCALES,
            "by": ["mean", None, 1],
            "keep": [0, 1.5, "0.1", True],
        },
        identity=TaskVectors(files=(_task_vector(),), scale=0.0),
        no_control=_EXPLAINED,
    ),
    MEMIT: Case(
        typical=MEMIT(facts=(_FACT, _OTHER_FACT), layers=(2, 3)),
        refused=_FACTS_REFUSED | {"weight": [0, -1.0, "0.1", True]},
        no_identity="a fact is edited or it is not",
        no_control=_EXPLAINED,
    ),
    AlphaEdit: Case(
        typical=AlphaEdit(facts=(_FACT, _OTHER_FACT), layers=(2, 3), small=0.1),
        refused=_FACTS_REFUSED | {"small": [0, 1.5, "0.1", True], "ridge": [0, -1.0, "0.1", True]},
        no_identity="a fact is edited or it is not",
        no_control=_EXPLAINED,
    ),
    MaskedFineTuning: Case(
        typical=MaskedFineTuning(units=("blocks.2.attn.z.1", "blocks.3.mlp.post.17"), steps=2, learning_rate=1e-2),
        refused={"units": _UNITS_REFUSED, "steps": [0, 2.5, True], "learning_rate": [-0.1, "0.1", True]},
        identity=MaskedFineTuning(units=("blocks.2.attn.z.1",), learning_rate=0.0),
        no_control=_TRAINED,
    ),
    Unlearning: Case(
        typical=Unlearning(units=("blocks.3.mlp_out",), steps=2, learning_rate=1e-2, forget=((5, 6, 7, 8),)),
        refused={
            "units": _UNITS_REFUSED,
            "steps": [0, 2.5, True],
            "learning_rate": [-0.1, "0.1", True],
            "forget": [(), ((5,),), 3],
            "retain": [-0.1, "0.1", True],
            "enough": [0, "0.1", True],
        },
        identity=Unlearning(units=("blocks.3.mlp_out",), learning_rate=0.0, forget=((5, 6, 7, 8),)),
        no_control=_TRAINED,
    ),
    ROME: Case(
        typical=ROME(prompt=(5, 6, 7, 8), subject=2, target=(9,), layer=3, essence=(7, 8), steps=3),
        refused={
            "prompt": [(), (1.5,), 3],
            "subject": [-1, 4, 1.5, True],
            "target": [(), (True,), None],
            "layer": [-1, 2.5, True, "3"],
            "essence": [(1.5,), 3],
            "essence_subject": [-1, 2, True],
            "steps": [0, 2.5, True],
            "learning_rate": [0, -1.0, float("nan"), "0.1"],
            "weight_decay": [-0.1, float("nan"), "0.1"],
            "clamp": [0, -1.0, float("inf")],
            "divergence": [-0.1, float("nan"), "0.1"],
            "damping": [0, -0.1, "0.1"],
        },
        no_identity="it takes at least one step",
        no_control=_EXPLAINED,
    ),
    RoundToNearest: Case(
        typical=_RTN,
        refused=_RTN_REFUSED,
        no_identity="8 bits are the most it has, and they still round",
        control=RoundToNearest(bits=3, group_size=None),
    ),
    ClippedRoundToNearest: Case(
        typical=ClippedRoundToNearest(bits=3, group_size=16),
        refused=_RTN_REFUSED,
        no_identity="8 bits are the most it has, and they still round",
        control=_RTN,
    ),
    AbsmeanTrits: Case(
        typical=AbsmeanTrits(group_size=16),
        refused={"group_size": [0, -1, 2.5, True], "rotation": _ROTATION_REFUSED},
        no_identity="it has one strength",
        control=AbsmeanTrits(group_size=None),
    ),
    TritPlanes: Case(
        typical=_TRITS,
        refused={
            "planes": [0, 4, 2.0, True, "2"],
            "group_size": [0, -1, 2.5, True],
            "rotation": _ROTATION_REFUSED,
            "starts": [(), ("random",), "sign", None],
            "iterations": [0, 2.5, True, None],
            "tolerance": [-1e-4, float("nan"), float("inf"), "0.1", True],
        },
        no_identity="three planes are the most it has, and they still round",
        control=TritPlanes(planes=2, group_size=16, starts=("sign",), iterations=1),  # the mean |w|, halved, as scales
    ),
    LayerBits: Case(
        typical=_layer_bits(_BLOCKS),
        refused={
            "budget": [0, -2.5, float("nan"), float("inf"), "2.6", True],
            "low": ["RoundToNearest", None, AdditiveNoise(strength=0.1)],
            "high": [4, ProportionalNoise(strength=0.1)],
            "between": ["RoundToNearest", (3,), None],
            "ranking": [None, "effective-rank", 3],
        },
        no_identity="its levels have their own",
        control=_layer_bits(_BLOCKS.reversed()),
    ),
    Pack: Case(
        typical=Pack(),
        refused={},
        no_identity="it changes where values are kept, and has no strength",
        no_control="it has the weights of the quantizer before it, whose control that one has",
        after=Chain(methods=(_TRITS, RoundToNearest(bits=4, select="mlp.down"))),
    ),
    TunedScales: Case(
        typical=TunedScales(steps=3, tokens=64),
        identity=TunedScales(steps=0),
        reseeded=TunedScales(steps=3, tokens=64, seed=1),
        refused={"steps": [-1, 2.5, "3"], "rate": [0, -1.0, float("nan"), "a"], "tokens": [1, 2.5], "seed": [-1, 0.5]},
        no_control="its control is the model that it starts from, in tests/quant/test_tuned_scales.py",
        after=_TRITS,
    ),
    Unpack: Case(
        typical=Unpack(),
        refused={"dtype": ["int8", "Tensor", 32]},
        no_identity="it changes where values are kept, and has no strength",
        no_control="it has the weights of the quantizer before it, whose control that one has",
        after=Chain(methods=(_TRITS, RoundToNearest(bits=4, select="mlp.down"), Pack())),
    ),
    BinaryWeights: Case(
        typical=BinaryWeights(activation_bits=8, select="mlp.down", layers="-2:"),
        refused={
            "activation_bits": [0, 9, 4.0, True, "4"],
            "method": ["sign", None, 1],
            "activation": ["relu", 3],
            "per": ["tensor", 1],
            "eight_bit": [8, True, ""],
            "rectifier": ["relu", 1, True],
        },
        no_identity="weights of one bit are another model at any setting",
        control=BinaryWeights(activation_bits=8, method="dorefa", activation="lsq", select="mlp.down", layers="-2:"),
        weights_stay=True,
        unsaved="its binary weights are still in training; apply Pack, which keeps what was trained",
    ),
    GPTQ: Case(
        typical=GPTQ(bits=3, group_size=64, layers="0:2"),
        refused=_RTN_REFUSED | _CALIBRATED_REFUSED | {"range": ["half", None, 1]},
        no_identity="8 bits are the most it has, and they still round",
        control=ClippedRoundToNearest(bits=3, group_size=64, layers="0:2"),
        lower_error=False,
    ),
    CalibratedTritPlanes: Case(
        typical=CalibratedTritPlanes(planes=1, group_size=64, iterations=2, layers="0:2"),
        refused=_CALIBRATED_REFUSED | {"planes": [0, 4, 2.0, True, "2"], "iterations": [0, 2.5, True, None]},
        no_identity="three planes are the most it has, and they still round",
        control=TritPlanes(planes=1, group_size=64, layers="0:2"),
        lower_error=False,
    ),
    AsymmetricTrits: Case(
        typical=AsymmetricTrits(group_size=64, layers="0:2"),
        refused=_CALIBRATED_REFUSED,
        no_identity="it has one strength",
        control=TritPlanes(planes=1, group_size=64, layers="0:2"),
        lower_error=False,
    ),
    AdditiveNoise: _noise(AdditiveNoise, relative_to=("tile-std", ["largest", 3]), tile_size=(64, [0, -1, 2.5, True])),
    ProportionalNoise: _noise(ProportionalNoise),
    LogNormalNoise: _noise(LogNormalNoise),
    Deploy: Case(
        typical=_deploy("pcm", seed=1, seconds=3600.0),
        refused={
            "chip": ["no-such-chip", 3],
            "seed": [1.5, True, None],
            "seconds": [-1.0, float("nan"), float("inf"), "1 h", True],
            "ranges": [3, "up", (("up", 1.0),), (("up", -1.0, None),)],
        },
        reseeded=_deploy("pcm", seed=2, seconds=3600.0),
        identity=_deploy("ideal", seed=1),
        control=Deploy(
            chip=dataclasses.replace(
                Chip.preset("pcm").without_periphery(), weight_range="tensor", compensation="none"
            ),
            seed=1,
            seconds=3600.0,
        ),
        weights_stay=True,
    ),
    NoiseAware: Case(
        typical=NoiseAware(chip=AdditiveNoise(strength=0.05), resample=2, seed=1, layers="0:2"),
        refused={
            "chip": ["no-such-chip", 3, None, AdditiveNoise(strength=0.1, seed=3)],
            "gradient": ["straight", None],
            "input_gradient": ["both", None],
            "resample": [0, -1, 1.5, True, "batch"],
            "warmup_steps": [-1, 1.5, True],
            "clip": [0, -1.0, float("nan"), "2.5", True],
            "seed": [1.5, True, None],
            "seconds": [-1.0, float("nan"), 60],
        },
        reseeded=NoiseAware(chip=AdditiveNoise(strength=0.05), seed=2, layers="0:2"),
        identity=NoiseAware(chip=AdditiveNoise(strength=0.0), seed=1, layers="0:2"),
        no_control="what it is better than is training without noise, which benchmarks/noise_aware.py measures",
        weights_stay=True,
    ),
    HybridProjection: Case(
        typical=HybridProjection(select="mlp.down", layers="last"),
        refused={
            "rank": [0, -1, 2.5, True],
            "columns": ["none", 3, None],
            "basis": ["svd", "measured", 3, None],
            "noise": ["pcm", 3],
        },
        no_identity="a matrix that was taken apart and put together again differs in its last bits",
        no_control="it helps where there is noise: tests/analog/test_hybrid_projection.py, benchmarks/hpd.py",
    ),
    Redundancy: Case(
        typical=Redundancy(copies=2, select="mlp.down"),
        refused={"copies": [0, -1, 2.0, True, "2", 65]},
        identity=Redundancy(copies=1),
        no_control="it helps where there is noise: tests/analog/test_redundancy.py, benchmarks/redundancy.py",
    ),
    ExpertReplacement: Case(
        typical=ExpertReplacement(noise=_EXPERT_NOISE, threshold=1.0, share=0.07, seeds=(1,)),
        refused=_GUARD_REFUSED
        | {"mode": ["move", None], "threshold": [-0.1, 1.5, float("nan"), "1"], "share": [-0.1, 1.5, True]},
        identity=ExpertReplacement(noise=_EXPERT_NOISE, share=0.0),
        no_control="it helps where there is noise: tests/analog/test_romer.py, benchmarks/romer.py",
        model="tiny-moe",
    ),
    RandomReplacement: Case(
        typical=RandomReplacement(count=2, seed=1),
        refused={"count": [0, -1, 2.0, True], "seed": [1.5, True, None], "mode": ["move", None]},
        reseeded=RandomReplacement(count=2, seed=2),
        no_identity="it replaces at least one expert",
        no_control="it is a control",
        model="tiny-moe",
    ),
    RouterCalibration: Case(
        typical=RouterCalibration(noise=AdditiveNoise(strength=0.4, select="experts,router,attention"), seeds=(1,)),
        refused=_GUARD_REFUSED | {"percentiles": [(5, 50), (50, 5, 95), (-1, 50, 95), (5, 50, 101), 50]},
        identity=RouterCalibration(noise=AdditiveNoise(strength=0.0, select="experts")),
        no_control="it helps where there is noise: tests/analog/test_romer.py, benchmarks/romer.py",
        model="tiny-moe",
    ),
    Chain: Case(
        typical=Chain(methods=(AdditiveNoise(strength=0.02, seed=1), _RTN)),
        refused={"methods": [(), ("mlp",)]},
        reseeded=Chain(methods=(AdditiveNoise(strength=0.02, seed=2), _RTN)),
        identity=Chain(methods=(AdditiveNoise(strength=0.0), ProportionalNoise(strength=0.0))),
        no_control="its members have theirs",
    ),
}
