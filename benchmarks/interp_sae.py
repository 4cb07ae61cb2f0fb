"""Sparse autoencoders of a real language model: what they explain and keep of it, and what their features tell.

    python -m benchmarks run interp_sae

The residual stream in the middle of a real model (`--model`, by default SmolLM2-135M among those in HARDY_REAL_MODELS),
on encyclopedia articles; judged on other articles and on Python, which no autoencoder saw. "Loss kept" is of what the
model loses where the stream is replaced by its mean: 1 where the reconstruction costs nothing. The controls have as
many numbers a token as there are features on: principal components, the largest of each token, and an autoencoder of
random directions that was not trained.

Then its features as objects: those that carry indirect objects by attribution patching, beside as many random ones of
those that are on; and how well the one best feature tells the moods of sentences, chosen on some and judged on others,
beside the best coordinate of the stream and the best random direction. Last, what the autoencoder of the model as it is
explains of the same model on few bits and under noise.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.harness import TEXTS, Result, Value, mean_of, real_models, rows, text_of
from hardy import hooks, interp, zoo
from hardy.core import Method
from hardy.core.rng import generator
from hardy.evaluate import encode
from hardy.hardware.noise import AdditiveNoise
from hardy.interp import prompts
from hardy.interp.sae import SAE, top_k
from hardy.interp.sae_training import Training, fit
from hardy.interp.vectors import activations
from hardy.quant import RoundToNearest, TritPlanes

DEFAULT = "smollm2-135m"
WINDOW, JUDGED = 256, 16
RANDOM = range(3)
Rebuild = Callable[[torch.Tensor], torch.Tensor]


def run(*, model: str = "", layer: int = 15, tokens: int = 131_072, steps: int = 1500, k: int = 32) -> Result:
    """
    Args:
        model: folder of a real one.
        layer: the block behind which the stream is explained.
        tokens: of text, which are gone through several times.
        steps: of each training.
        k: features on at a time.
    """
    torch.set_num_threads(1)
    found = real_models(model)
    name = DEFAULT if DEFAULT in found else next(iter(found))
    network, tokenizer = zoo.load(str(found[name]), dtype=torch.float32)
    point = f"blocks.{layer}.resid_post"
    seen = streams(network, windows(tokenizer, "prose", "calibration", tokens // WINDOW), point)
    judged = {kind: windows(tokenizer, kind, "evaluation", JUDGED) for kind in TEXTS}
    held_out = {kind: torch.cat(streams(network, ids, point)) for kind, ids in judged.items()}
    lines, autoencoders = [], dict[str, SAE]()
    for architecture in ("topk", "jumprelu"):
        settings = Training(architecture=architecture, k=k, steps=steps)  # pyright: ignore[reportArgumentType]
        begun = time.process_time()
        trained = fit(lambda chunk: seen[chunk % len(seen)], settings, point=point, name=name)
        spent = time.process_time() - begun
        autoencoders[architecture] = trained.sae
        lines += rows(
            architecture, features=trained.sae.width, dead=trained.dead, training=Value(spent, "s of one core")
        )
    every = torch.cat(seen)
    rebuilds: dict[str, Rebuild] = {
        kind: lambda x, sae=sae: sae.decode(sae.encode(x)) for kind, sae in autoencoders.items()
    }
    rebuilds["principal components"] = components(every, k)
    rebuilds["random directions"] = random_autoencoder(every, k, autoencoders["topk"].width)
    lines += explained(network, judged, held_out, rebuilds, autoencoders, every.mean(0), point)
    lines += carried(network, tokenizer, autoencoders)
    lines += moods(network, tokenizer, autoencoders["topk"], layer)
    lines += survived(network, judged, autoencoders["topk"], point)
    return Result(
        rows=lines,
        settings={
            "model": name, "weights": "dequantized from a 4-bit file", "point": point, "tokens": len(every), "k": k,
            "steps": steps, "batch": Training().batch,
        },
        seeds=RANDOM,
    )  # fmt: skip


def windows(tokenizer: Any, kind: str, part: str, count: int) -> torch.Tensor:
    """(count, WINDOW) tokens of text of a kind, spread over all of it."""
    ids = encode(tokenizer, text_of(kind, part))
    whole = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return whole[:: max(1, len(whole) // count)][:count]


def streams(network: Any, ids: torch.Tensor, point: str) -> list[torch.Tensor]:
    """The activations of each four windows, without the first position, which is far larger than all others."""
    found: list[torch.Tensor] = []
    for four in ids.split(4):
        with torch.no_grad(), hooks.watch(network, {point: found.append}, stop=True):
            hooks.run(network, four)
    return [x[:, 1:].flatten(0, 1).clone() for x in found]


def components(x: torch.Tensor, k: int) -> Rebuild:
    """The k largest principal components of each token."""
    mean = x.mean(0)
    _, directions = torch.linalg.eigh((x - mean).mT @ (x - mean))

    def rebuild(new: torch.Tensor) -> torch.Tensor:
        amounts = (new - mean) @ directions
        largest = amounts.abs().topk(k, -1).indices
        return torch.zeros_like(amounts).scatter(-1, largest, amounts.gather(-1, largest)) @ directions.mT + mean

    return rebuild


def random_autoencoder(x: torch.Tensor, k: int, width: int) -> Rebuild:
    """An autoencoder as it stands before its training, its features scaled to explain most."""
    mean = x.mean(0)
    directions = torch.randn(width, x.shape[1], generator=generator(0, "interp_sae"))
    directions /= directions.norm(dim=1, keepdim=True)

    def raw(new: torch.Tensor) -> torch.Tensor:
        return top_k((new - mean) @ directions.mT, k) @ directions

    some = x[:4096]
    scale = ((some - mean) * raw(some)).sum() / raw(some).square().sum()
    return lambda new: mean + scale * raw(new)


def explained(
    network: Any,
    judged: Mapping[str, torch.Tensor],
    held_out: Mapping[str, torch.Tensor],
    rebuilds: Mapping[str, Rebuild],
    autoencoders: Mapping[str, SAE],
    mean: torch.Tensor,
    point: str,
) -> list[Any]:
    lines = []
    for kind, ids in judged.items():
        clean = loss(network, ids)
        ended = loss(network, ids, point, lambda x: mean.expand_as(x))
        lines += rows(
            f"stream as it is | {kind}", {"arm": "stream as it is", "text": kind}, loss=Value(clean, "nats/token")
        )
        lines += rows(f"its mean | {kind}", {"arm": "its mean", "text": kind}, loss=Value(ended, "nats/token"))
        for arm, rebuild in rebuilds.items():
            x = held_out[kind]
            left = (x - rebuild(x)).square().sum() / (x - x.mean(0)).square().sum()
            now = loss(network, ids, point, rebuild)
            facts: Any = {"explained": 1 - left.item(), "loss": Value(now, "nats/token")}
            facts["loss_kept"] = (ended - now) / (ended - clean)
            if arm in autoencoders:
                facts["on"] = (autoencoders[arm].encode(x) > 0).sum(1).double().mean().item()
            lines += rows(f"{arm} | {kind}", {"arm": arm, "text": kind}, **facts)
            print(arm, kind, facts, flush=True)
    return lines


def loss(network: Any, ids: torch.Tensor, point: str = "", rebuild: Rebuild | None = None) -> float:
    """Nats per token, the stream of all but the first position rebuilt."""

    def change(x: torch.Tensor) -> torch.Tensor:
        assert rebuild is not None
        return torch.cat([x[:, :1], rebuild(x[:, 1:])], 1)

    total, count = 0.0, 0
    with torch.no_grad(), hooks.patch(network, {} if rebuild is None else {point: change}):
        for four in ids.split(4):
            logits = network(input_ids=four, use_cache=False).logits[:, :-1].float()
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), four[:, 1:].flatten(), reduction="sum"
            ).item()
            count += four[:, 1:].numel()
    return total / count


def carried(network: Any, tokenizer: Any, autoencoders: Mapping[str, SAE]) -> list[Any]:
    """The effect of indirect objects that is lost without ten features, and without ten random ones of those on."""
    task = interp.Task.of(prompts.indirect_object(tokenizer, 8), tokenizer, name="indirect object")
    clean, corrupt = (interp.scores(network, task, side).mean().item() for side in ("clean", "corrupt"))
    lines = []
    for kind, sae in autoencoders.items():
        with sae.attached(network):
            ranking = interp.locate(network, task, object="feature", by="attribution-patching")
            on = [unit for unit, score in ranking.scores.items() if score]

            def lost(units: Sequence[str]) -> float:
                return (clean - interp.knocked_out(network, task, units)) / (clean - corrupt)

            top = lost(ranking.top(10))
            chance = [
                lost([on[i] for i in torch.randperm(len(on), generator=generator(seed, "interp_sae"))[:10]])
                for seed in RANDOM
            ]
            other = interp.locate(network, task.shuffled(0), object="feature", by="attribution-patching")
            shuffled = lost(other.top(10))
        lines += rows(
            f"indirect objects without ten features of {kind}", {"arm": kind, "features on": len(on)},
            baseline="random features", effect_lost=top, without_random=mean_of(chance), without_shuffled=shuffled,
        )  # fmt: skip
        print(lines[-3:], flush=True)
    return lines


def moods(network: Any, tokenizer: Any, sae: SAE, layer: int) -> list[Any]:
    """How often the one best number tells the better of two sentences, chosen on 40 pairs and judged on 20 others."""
    pairs = prompts.sentiment(tokenizer, 60)
    both = activations(network, tokenizer, [p.positive for p in pairs] + [p.negative for p in pairs])[layer]
    directions = torch.randn(sae.width, both.shape[1], generator=generator(1, "interp_sae"))
    readings = {
        "one feature": sae.encode(both),
        "one coordinate of the stream": both,
        "one of as many random directions": both @ directions.mT,
    }
    lines = []
    for arm, values in readings.items():
        ahead = values[:60] - values[60:]
        told = torch.maximum((ahead[:40] > 0).float().mean(0), (ahead[:40] < 0).float().mean(0))
        margin = ahead[:40].mean(0).abs() / ahead[:40].std(0).clamp_min(1e-6)
        best = int((told + 1e-3 * margin.clamp_max(100)).argmax())
        sign = 1 if ahead[:40, best].mean() > 0 else -1
        right = (sign * ahead[40:, best] > 0).float().mean().item()
        lines += rows(f"moods told by {arm}", {"arm": arm}, pairs_told_apart=right)
        print(lines[-1], flush=True)
    return lines


def survived(network: Any, judged: Mapping[str, torch.Tensor], sae: SAE, point: str) -> list[Any]:
    """What the autoencoder explains of the model on few bits, and how many of the features that are on are the same."""
    ids = judged["prose"]
    before = torch.cat(streams(network, ids, point))
    methods: dict[str, Method] = {f"{bits} bits": RoundToNearest(bits=bits, group_size=64) for bits in (4, 3, 2)}
    methods |= {f"{planes} trit-planes": TritPlanes(planes=planes) for planes in (3, 2)}
    methods["5% noise"] = AdditiveNoise(strength=0.05, seed=0)
    lines = rows("unmodified", explained=sae.explained(before), same_features=1.0)
    on = sae.encode(before) > 0
    for name, method in methods.items():
        with method.apply(network):
            now = torch.cat(streams(network, ids, point))
        same = ((sae.encode(now) > 0) & on).sum() / on.sum()
        lines += rows(name, baseline="unmodified", explained=sae.explained(now), same_features=same.item())
        print(name, lines[-2].value, lines[-1].value, flush=True)
    return lines
