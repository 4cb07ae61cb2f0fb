"""Inside of a real language model: what locates a behaviour, what steers it, which edges carry it, on few bits too.

    python -m benchmarks run interp-steer
    python -m benchmarks run interp-steer --part locate --out FOLDER

The parts are locate, steer, circuit and edit; `python -m benchmarks run interp-PART` measures one.

Heads for induction (repeated random tokens) and indirect objects by patching and by attribution, each beside random
heads and the ranking for shuffled answers; a sentiment and a truth direction made on some pairs and judged on others,
by dose and side effect, beside random directions of the same length; the edges of indirect objects beside random edges,
and whether heads and edges are those of the model on few bits; facts edited one at a time, in each of some blocks. The
folder of a real model is `--model`; by default it is the one `--named` among those in HARDY_REAL_MODELS.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.harness import NotMeasuredError, Result, Value, mean_of, real_models, rows, text_of
from hardy import interp, zoo
from hardy.core import InputError, Method, Ranking, Row
from hardy.core.rng import generator
from hardy.evaluate import encode
from hardy.interp import circuit, prompts
from hardy.interp.knockouts import controls, overlap
from hardy.interp.locating import locator_of
from hardy.interp.vectors import activations, divergence
from hardy.quant import RoundToNearest, TritPlanes

DEFAULT = "smollm2-135m"
RANDOM = range(3)
COUNTRIES = 10
PATCHED = 40
SCALES = (-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)


def run(
    *, part: str = "locate", model: str = "", named: str = DEFAULT, examples: int = 8, blocks: str = "4,10",
    moments: int = 4, threads: int = 1,
) -> Result:  # fmt: skip
    """
    Args:
        part: locate, steer, circuit or edit.
        model: folder of a real one.
        named: which of those in HARDY_REAL_MODELS otherwise.
        examples: of a task, or edits.
        blocks: in which facts are edited, in the first of them without moments too.
        moments: windows of 512 tokens that the moments of an MLP's inputs come from; more tokens than it is wide.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    found = real_models(model)
    name = named if named in found else next(iter(found))
    network, tokenizer = zoo.load(str(found[name]), dtype=torch.float32)
    parts: dict[str, Callable[..., Result]] = {"locate": located, "steer": steered, "circuit": edges}
    parts["edit"] = functools.partial(edited, blocks=[int(block) for block in blocks.split(",")], moments=moments)
    if part not in parts:
        raise NotMeasuredError(f"there are parts {', '.join(parts)}, not {part!r}")
    result = parts[part](network, tokenizer, examples)
    settings = {**result.settings, "model": name, "weights": "dequantized from a 4-bit file"}
    return Result(rows=result.rows, settings=settings, seeds=RANDOM, notes=result.notes, raw=result.raw)


def tasks(tokenizer: Any, n: int) -> dict[str, interp.Task]:
    ordinary = range(1000, 11000)  # neither bytes nor special tokens
    begin = tokenizer.bos_token_id
    return {
        "induction": prompts.induction(list(ordinary), n=n, length=8, begin=begin),
        "indirect object": interp.Task.of(prompts.indirect_object(tokenizer, n), tokenizer, name="indirect object"),
    }


def located(model: Any, tokenizer: Any, n: int) -> Result:
    found: list[Row] = []
    raw: dict[str, Any] = {}
    for name, task in tasks(tokenizer, n).items():
        clean, corrupt = (interp.scores(model, task, side) for side in ("clean", "corrupt"))
        found += rows(
            name, score_clean=mean_of(clean.tolist(), "nats"), score_corrupt=mean_of(corrupt.tolist(), "nats")
        )
        found += rows(name, accuracy=(clean > 0).float().mean().item())
        rankings: dict[str, Ranking] = {}
        some: list[str] = []
        for by, options in {
            "attribution-patching": {}, "attribution-patching, 5 steps": {"steps": 5}, "patching": {},
            "direct-logit-attribution": {}, "prefix-matching": {},
        }.items():  # fmt: skip
            if by == "prefix-matching" and name != "induction":
                continue
            locator = locator_of(by.partition(",")[0], "head", **options)
            begun = time.perf_counter()
            if by == "patching":
                # Each head costs a run: some at random, and the best by attribution.
                best = rankings["attribution-patching, 5 steps"]
                some = best.sample(PATCHED, 0)
                among = tuple(dict.fromkeys([*some, *best.top(10)]))
                locator = dataclasses.replace(locator, among=among)
            ranking = rankings[by] = locator.locate(model, task)
            seconds = time.perf_counter() - begun
            found += rows(f"{name}: {by}", seconds=Value(seconds, "s"))
            raw[f"{name}: {by}"] = {unit: ranking.scores[unit] for unit in ranking.top(15)}
            print(name, by, f"{seconds:.1f} s", ranking.top(5), flush=True)
            if by in ("attribution-patching", "direct-logit-attribution"):
                judged = controls(locator, ranking, model, task, k=10, seeds=len(RANDOM))
                lost = [judged.lost(score) for score in judged.random]
                found += rows(f"{name}: {by}", effect_lost=judged.lost(judged.top), baseline="random heads")
                found += rows(f"{name}: {by}, random heads", seeds=RANDOM, effect_lost=mean_of(lost))
                if judged.shuffled is not None:
                    found += rows(f"{name}: {by}, shuffled answers", effect_lost=judged.lost(judged.shuffled))
        exact = rankings["patching"]
        for by, ranking in rankings.items():
            if by != "patching":
                sampled = Ranking(**{**exact.to_dict(), "scores": {unit: exact.scores[unit] for unit in some}})
                agreement = sampled.agreement(ranking)
                found += rows(
                    f"{name}: {by}",
                    spearman_with_patching=Value(agreement.spearman, n=agreement.n),
                    best_patched_in_top_10=float(exact.top(1)[0] in ranking.top(10)),
                )
        top = interp.knocked_out(model, task, exact.top(10))
        span = (clean.mean() - corrupt.mean()).item()
        found += rows(f"{name}: patching", effect_lost=(clean.mean().item() - top) / span)
        residual = interp.AttributionPatching(object="residual", steps=5).effects(model, task)
        best = max(residual, key=residual.__getitem__)
        recovered = interp.Patching(object="residual", among=(best,)).effects(model, task)[best]
        found += rows(f"{name}: residual {best}", recovery=recovered)
    return Result(rows=found, settings={"examples": n, "k": 10, "heads patched at random": PATCHED}, raw=raw)


def steered(model: Any, tokenizer: Any, n: int) -> Result:
    """Directions from 40 pairs, layers chosen on 20 others, judged on the neutral prompts and on text."""
    found: list[Row] = []
    notes = []
    judge = interp.Task.of(prompts.sentiment_openings(tokenizer), tokenizer, name="neutral openings")
    ids = {kind: encode(tokenizer, text_of(kind)[:4000])[:128][None] for kind in ("prose", "code")}
    with torch.no_grad():
        before = {kind: model(input_ids=t, use_cache=False).logits.float().log_softmax(-1) for kind, t in ids.items()}
    plain = interp.scores(model, judge).mean().item()
    for name, pairs in {"sentiment": prompts.sentiment(tokenizer, 60), "truth": prompts.truth(tokenizer, 60)}.items():
        both = activations(model, tokenizer, [p.positive for p in pairs] + [p.negative for p in pairs])
        positive, negative = both[:, :60], both[:, 60:]
        accuracies = {}
        for layer in range(len(both)):
            for by in ("mean-difference", "pca", "probe"):
                r = interp.direction(positive[layer, :40], negative[layer, :40], by)
                accuracies[by, layer] = told_apart(r, positive[layer], negative[layer])
        for by in ("mean-difference", "pca", "probe"):
            layer = max(range(len(both)), key=lambda i: accuracies[by, i][0])  # on the pairs it was made from
            found += rows(f"{name}: {by}", {"layer": layer}, held_out_pairs_told_apart=accuracies[by, layer][1])
        chances = [told_apart(random_direction(both.shape[-1], seed), positive[15], negative[15])[1] for seed in RANDOM]
        found += rows(f"{name}: random directions", seeds=RANDOM, held_out_pairs_told_apart=mean_of(chances))
        if name == "sentiment":
            made = {i: interp.direction(positive[i, :40], negative[i, :40]) for i in range(4, len(both) - 2, 4)}
            layer = best_layer(model, tokenizer, made)
            r = made[layer]
            chance = {f"random {seed}": random_direction(len(r), seed) * r.norm() for seed in RANDOM}
            for condition, vector in {"mean-difference": r, **chance}.items():
                shifts = []
                for scale in SCALES:
                    with interp.SteeringVector(vector=vector, layer=layer, scale=scale).apply(model):
                        moved = interp.scores(model, judge).mean().item() - plain
                        shifts.append(moved)
                        spilled: Any = {
                            f"divergence_{k}": Value(divergence(model, before[k], t), "nats/token")
                            for k, t in ids.items()
                        }
                    found += rows(
                        f"sentiment, {condition}, scale {scale:g}", {"layer": layer, "scale": scale},
                        shift=Value(moved, "nats"), **spilled,
                    )  # fmt: skip
                    print(condition, scale, round(moved, 3), spilled, flush=True)
                found += rows(f"sentiment, {condition}", {"layer": layer}, dose_response=monotone(shifts))
    notes.append(
        "the shift is of the log-odds of good against bad words, none of them in the pairs, after neutral "
        "openings; the layer is the one with the largest shift from scale -0.5 to 0.5 after other openings"
    )
    notes.append("dose_response is Spearman's correlation of scale and shift, from -1 to 1")
    notes.append("the held-out pairs are other sentences of the same words and countries: an easy test of a direction")
    return Result(rows=found, settings={"pairs": 40, "held out": 20, "score before": plain}, notes=notes)


def best_layer(model: Any, tokenizer: Any, made: Mapping[int, torch.Tensor]) -> int:
    """Of the layers, the one whose direction shifts other openings than those that are reported most."""
    task = interp.Task.of(prompts.sentiment_openings(tokenizer, choosing=True), tokenizer, name="other openings")

    def shift(layer: int) -> float:
        ends = []
        for scale in (-0.5, 0.5):
            with interp.SteeringVector(vector=made[layer], layer=layer, scale=scale).apply(model):
                ends.append(interp.scores(model, task).mean().item())
        return ends[1] - ends[0]

    return max(made, key=shift)


def monotone(shifts: Sequence[float]) -> float:
    """Spearman's correlation of the scales from -1 to 1 and the shifts there."""
    near = {str(scale): shift for scale, shift in zip(SCALES, shifts, strict=True) if abs(scale) <= 1}
    doses, found = ({name: float(value) for name, value in pairs} for pairs in (((n, n) for n in near), near.items()))
    facts: Any = {"meaning": "dose", "unit": "", "by": "scale"}
    return Ranking(scores=doses, **facts).agreement(Ranking(scores=found, **facts)).spearman


def told_apart(r: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> tuple[float, float]:
    """Share of the pairs whose positive side lies further along a direction: the first 40, and the others."""
    ahead = ((positive - negative) @ r > 0).float()
    return ahead[:40].mean().item(), ahead[40:].mean().item()


def random_direction(width: int, seed: int) -> torch.Tensor:
    r = torch.randn(width, generator=generator(seed, "random-direction"))
    return r / r.norm()


SIZES = (0.002, 0.01, 0.05, 0.2, 1.0)


def edges(model: Any, tokenizer: Any, n: int) -> Result:
    """The circuit of indirect objects, and whether it is that of the same model on few bits."""
    task = tasks(tokenizer, n)["indirect object"]
    found: list[Row] = []
    whole = circuit.find(model, task, steps=5, batch=8)
    heads = interp.AttributionPatching(object="head").locate(model, task)
    clean = interp.scores(model, task).mean().item()
    found += rows("unmodified", {"edges": whole.graph.edges}, score=Value(clean, "nats"))
    kept = circuit.faithfulness(model, task, whole.top, whole.graph, sizes=SIZES, batch=8)
    chance = circuit.faithfulness(model, task, lambda k: whole.random(k, 0), whole.graph, sizes=SIZES, batch=8)
    for name, curve in {"edges by EAP-IG": kept, "random edges": chance}.items():
        for size, value in zip(curve.sizes, curve.values, strict=True):
            found += rows(f"{name}, {size:.1%} of all", {"size": size}, faithfulness=value)
        found += rows(name, cpr=curve.cpr, cmd=curve.cmd)
        print(name, [round(v, 3) for v in curve.values], flush=True)
    methods: dict[str, Method] = {f"{bits} bits": RoundToNearest(bits=bits, group_size=64) for bits in (4, 3, 2)}
    methods["2 trit-planes"] = TritPlanes(planes=2, group_size=64)
    for name, method in methods.items():
        with method.apply(model):
            score = interp.scores(model, task).mean().item()
            facts: Any = {"score_kept": score / clean}
            try:
                now = interp.AttributionPatching(object="head").locate(model, task)
                facts |= {
                    "heads_spearman": heads.agreement(now).spearman,
                    "heads_top_10_shared": overlap(heads, now, 10),
                }
                old = circuit.faithfulness(model, task, whole.top, whole.graph, sizes=(0.05,), batch=8)
                facts |= {"old_edges_5_percent": old.values[0]}
            except InputError as error:
                found += rows(f"{name}: {error}", nothing_left=1.0)
            found += rows(name, baseline="unmodified", **facts)
            print(name, facts, flush=True)
    chance = [overlap(heads, heads.shuffled(seed), 10) for seed in RANDOM]
    found += rows("heads at random", seeds=RANDOM, heads_top_10_shared=mean_of(chance))
    return Result(rows=found, settings={"examples": n, "steps": 5})


def edited(model: Any, tokenizer: Any, n: int, blocks: Sequence[int], moments: int) -> Result:
    """One fact at a time: a country is given another's capital; what else is said of others stays or not."""
    known = []
    for country, capital in prompts.CAPITALS.items():
        ids = tokenizer(f"The capital of {country} is", return_tensors="pt").input_ids
        answer = tokenizer(f" {capital}", add_special_tokens=False).input_ids[0]
        with torch.no_grad():
            if model(input_ids=ids).logits[0, -1].argmax().item() == answer:
                known.append((country, capital))
        if len(known) == COUNTRIES:
            break
    found = rows("unmodified", facts_known=len(known))
    text = encode(tokenizer, text_of("prose", "calibration")[: 15000 * moments])[: 512 * moments].reshape(-1, 512)
    held_out = encode(tokenizer, text_of("prose")[:4000])[:128][None]
    with torch.no_grad():
        before = model(input_ids=held_out, use_cache=False).logits.float().log_softmax(-1)
    for layer, known_keys in ((blocks[0], True), (blocks[0], False), *((block, True) for block in blocks[1:])):
        got: dict[str, list[float]] = {"efficacy": [], "paraphrase": [], "locality": [], "divergence": []}
        for i, (country, _) in enumerate(known[:n]):
            target = known[(i + 3) % len(known)][1]
            method = interp.ROME.of(tokenizer, "The capital of {} is", country, f" {target}", layer=layer)
            with method.apply(model, list(text.split(2)) if known_keys else None):
                goal = tokenizer(f" {target}", add_special_tokens=False).input_ids[0]
                got["efficacy"].append(float(says(model, tokenizer, f"The capital of {country} is") == goal))
                got["paraphrase"].append(
                    float(says(model, tokenizer, f"The capital city of {country} is called") == goal)
                )
                others = [pair for pair in known if pair[0] != country][:8]
                stay = [
                    says(model, tokenizer, f"The capital of {c} is")
                    == tokenizer(f" {a}", add_special_tokens=False).input_ids[0]
                    for c, a in others
                ]
                got["locality"].append(sum(stay) / len(stay))
                got["divergence"].append(divergence(model, before, held_out))
        name = f"ROME in block {layer}, {'with' if known_keys else 'without'} moments"
        means: Any = {metric: mean_of(values) for metric, values in got.items()}
        found += rows(name, {"layer": layer}, **means)
        print(name, {k: sum(v) / len(v) for k, v in got.items()}, flush=True)
    return Result(rows=found, settings={"edits": min(n, len(known))})


@torch.no_grad()
def says(model: Any, tokenizer: Any, text: str) -> int:
    return int(model(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits[0, -1].argmax())
