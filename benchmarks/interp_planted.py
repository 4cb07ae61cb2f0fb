"""Ten behaviours of known mechanism, and a redundant block: is it found, and does steering it do what it should?

    python -m benchmarks run interp_planted
    python -m benchmarks run interp_planted --only facts,moods --out FOLDER

Decoders of one to four blocks are trained for it (`hardy.interp.planted`), or their weights set by hand. Every figure
stands beside what is needed of it and the negative control: random objects at the same budget, shuffled labels, random
edges, a dose of 0, the clean run patched into itself. `met` is 1 where the figure is what is needed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Result, Value, rows
from hardy import hooks, interp
from hardy.core import Ranking, Row
from hardy.core.ranking import rank_correlation
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.files import write_text
from hardy.hardware import ProportionalNoise
from hardy.interp import circuit, planted, prompts
from hardy.interp.attention import patterns
from hardy.interp.circuit import EdgePatched
from hardy.interp.sae_training import Training, fit, toy_superposition
from hardy.interp.vectors import divergence
from hardy.quant import RoundToNearest
from hardy.report import Report

SEEDS = range(3)
EDITS = 50


def needed(task: str, metric: str, value: float, *, at_least: float | None = None, at_most: float | None = None,
           control: float | None = None) -> list[Row]:  # fmt: skip
    """A figure, what is needed of it, whether it is so, and the control."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    print(f"{task}: {metric} {value:.4g}, {'met' if met else 'NOT MET'}; control {control}", flush=True)
    sign, limit = (">=", at_least) if at_least is not None else ("<=", at_most)
    said = "" if limit is None else f"{sign} {limit:g}"
    return rows(
        f"{task}: {metric}", {"needed": said}, value=value, met=float(met),
        control=None if control is None else Value(control),
    )  # fmt: skip


def run(*, only: str = "", work: Path | None = None) -> Result:
    tasks: dict[str, Callable[[], list[Row]]] = {
        "induction": induction, "indirect objects": indirect, "greater than": greater, "facts": facts,
        "languages": languages, "trigger": trigger, "moods": moods, "one neuron, one head": compiled,
        "superposition": superposition, "no-ops": nothing,
    }  # fmt: skip
    found: list[Row] = []
    for name in only.split(",") if only else tasks:
        kept = None if work is None else work / f"{name}.json"
        if kept is not None and kept.is_file():
            report = Report.from_json(kept.read_text(encoding="utf-8"))
        else:
            report = Report(title=name, rows=tuple(tasks[name]()))
            if kept is not None:
                write_text(kept, report.to_json())
        found += report.rows
    return Result(rows=found, seeds=[0])


def others(found: Ranking, kept: int, model: Any, task: interp.Task) -> float:
    """The score without as many random objects, mean over seeds."""
    return sum(interp.knocked_out(model, task, found.sample(kept, seed)) for seed in SEEDS) / len(SEEDS)


def induction() -> list[Row]:
    plan = planted.Plan(without_mlp=(0, 1), only_head={0: 1, 1: 2})
    model = planted.trained(plan, planted.repeated(n=32, length=10), steps=500)
    task = prompts.induction(range(1, 64), n=32, length=10, begin=0)
    truth = "blocks.1.attn.z.2"
    prefix, patched = (interp.locate(model, task, by=by, batch=64) for by in ("prefix-matching", "patching"))
    found = needed("induction", "prefix matching finds the head", float(prefix.top(1) == [truth]), at_least=1)
    found += needed(
        "induction", "patching finds it among those of its block",
        float(max((n for n in patched.scores if n.startswith("blocks.1")), key=patched.scores.__getitem__) == truth),
        at_least=1,
    )  # fmt: skip
    edges = circuit.find(model, task, steps=5, batch=32).ranking()
    into = {name: score for name, score in edges.scores.items() if name.endswith("-> blocks.1.attn.k.2")}
    found += needed(
        "induction", "edge of K-composition is the first into its keys",
        float(max(into, key=into.__getitem__).startswith("blocks.0.attn.z.1 ")), at_least=1,
    )  # fmt: skip
    (before,) = (p for name, p in patterns(model, task).items() if name == "blocks.0")
    looks_back = before.diagonal(-1, 2, 3).mean((0, 2))
    found += needed("induction", "the other head looks one token back", looks_back[1].item(), at_least=0.5,
                    control=looks_back[[0, 2, 3]].mean().item())  # fmt: skip

    def gain(names: list[str]) -> float:
        draw = planted.repeated(n=256, length=10)(generator(1, "held-out"))
        ids, labels = draw[0], torch.cat([draw[0][:, 1:], draw[0][:, :1]], 1)
        size = ids.shape[1] // 2
        with (
            interp.Amplitude(units=tuple(names), scale=0.0 if names else 1.0).apply(model)
            if names
            else hooks.patch(model, {}),
            torch.no_grad(),
        ):
            loss = torch.nn.functional.cross_entropy(model(ids).logits.mT, labels, reduction="none")
        return (loss[:, : size - 1].mean() - loss[:, size + 1 : -1].mean()).item()

    whole = gain([])
    silent = [n for n in patched.scores if n.startswith("blocks.1") and n != truth]
    return found + needed(
        "induction", "share of the second half's gain that goes with the head", 1 - gain([truth]) / whole, at_least=0.9,
        control=1 - gain(silent[:1]) / whole,
    )  # fmt: skip


def indirect() -> list[Row]:
    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        clean, _, pair = planted.indirect_objects(64, random)
        return clean, torch.cat([torch.full_like(clean[:, 1:], planted.NOTHING), pair[:, :1]], 1)

    model = planted.trained(planted.Plan(vocabulary=32, blocks=3), draw, steps=600)
    clean, corrupt, pair = planted.indirect_objects(64, generator(1, "held-out"))
    task = planted.task_of(clean, corrupt, pair, "indirect objects")
    accuracy = (interp.scores(model, task) > 0).float().mean().item()
    found = needed("indirect objects", "right name above the other", accuracy, at_least=0.95)
    residual = interp.Patching(object="residual", batch=64).effects(model, task)
    early = {name: value for name, value in residual.items() if not name.startswith("blocks.2")}
    best = max(early, key=early.__getitem__)
    places = [name for name in early if name != best]
    control = sum(early[name] for name in places) / len(places)
    found += needed("indirect objects", f"recovery by the stream at {best}", early[best], at_least=0.9, control=control)
    heads = interp.locate(model, task, by="direct-logit-attribution", batch=64)
    mover = interp.unit_named(heads.top(1)[0])
    pattern = patterns(model, task)[f"blocks.{mover.block}"][:, mover.index, -1]
    first = torch.arange(64) % 2 == 0
    at = torch.where(first, 2, 4).unsqueeze(1)
    to_receiver, to_giver = (pattern.gather(1, place).mean().item() for place in (at, 6 - at))
    found += needed("indirect objects", "attention of the first name mover to the name not repeated", to_receiver,
                    at_least=0.5, control=to_giver)  # fmt: skip
    top = interp.locate(model, task, by="patching", batch=64)
    for metric, names in (("residual", [best]), ("heads", top.top(3))):
        held = interp.record(model, task.inputs("corrupt"), sorted({interp.unit_named(n).point for n in names}))
        values = {n: held[interp.unit_named(n).point][interp.unit_named(n).place] for n in names}
        with torch.no_grad(), interp.patch(model, values):
            swapped = (interp.scores(model, task, batch=64) < 0).float().mean().item()
        if metric == "residual":
            found += needed("indirect objects", "answers swapped by that patch", swapped, at_least=0.95)
        else:
            found += rows("indirect objects: answers swapped by three heads", value=swapped)
    return found


def greater() -> list[Row]:
    model = planted.trained(planted.Plan(vocabulary=104, blocks=1, width=64), planted.later_years(128), steps=600)
    task = planted.later_years_task()
    right = (interp.scores(model, task) > 0).float().mean().item()
    found = needed("greater than", "later years above the others", right, at_least=0.95)
    patched = EdgePatched(model, circuit.Graph.of(model), task)
    graph = patched.graph
    whole = (patched.clean_score - patched.corrupt_score).mean()
    exact = []
    for u, v in graph.possible.nonzero().tolist():
        mask = torch.zeros(graph.possible.shape)
        mask[u, v] = 1
        with torch.no_grad():
            exact.append(((patched.clean_score - patched.scores(mask)).mean() / whole).item())
    for steps, limit in ((1, None), (20, 0.9)):
        scores = circuit.find(model, task, steps=steps, batch=24).scores[graph.possible]
        agreement = rank_correlation(scores.abs(), torch.tensor(exact).abs())
        shuffled = [
            rank_correlation(scores.abs()[torch.randperm(len(exact), generator=generator(s, "edges"))], exact)
            for s in SEEDS
        ]
        name = f"edges by attribution, {steps} step{'s' * (steps > 1)}, against exact patching, Spearman"
        found += needed("greater than", name, agreement, at_least=limit, control=sum(shuffled) / len(shuffled))
    return found


def facts() -> list[Row]:
    plan = planted.Plan(vocabulary=152, width=96, without_attention=(0,), without_mlp=(1,))
    told = planted.Facts.of()
    model = planted.trained(plan, told.draw, steps=400)
    ids, goal = told.prompts(), told.object

    def said() -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits[:, -1].argmax(-1)

    found = needed("facts", "known", (said() == goal).float().mean().item(), at_least=0.99)
    # Causal tracing: noise of three standard deviations on the subject, one activation as it was.
    task = planted.task_of(ids, None, torch.stack([goal, goal.roll(1)], 1), "facts")
    noise = (
        3 * model.model.embed_tokens.weight.std() * torch.randn(len(ids), 2, plan.width, generator=generator(0, "n"))
    )

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], x[:, 1:3] + noise, x[:, 3:]], 1)

    def traced(values: dict[str, torch.Tensor]) -> float:
        with torch.no_grad(), hooks.patch(model, {"embed": noisy}), interp.patch(model, values):
            return model(ids).logits[:, -1].softmax(-1).gather(1, goal.unsqueeze(1)).mean().item()

    held = interp.record(model, task.inputs(), ["blocks.0.mlp_out", "blocks.0.resid_post"])
    nothing_back = traced({})
    by_place = [traced({f"blocks.0.mlp_out@{p - 4}": held["blocks.0.mlp_out"][:, p]}) - nothing_back for p in range(4)]
    found += needed("facts", "causal tracing peaks at the subject's last token", float(max(by_place) == by_place[2]),
                    at_least=1)  # fmt: skip
    found += rows(
        "facts: probability that the MLP brings back there", value=by_place[2],
        control=max(by_place[p] for p in (0, 1, 3)),
    )  # fmt: skip
    random = generator(0, "edits")
    chosen = torch.randperm(len(ids), generator=random)[:EDITS]
    new = planted.OBJECTS[0] + (goal[chosen] - planted.OBJECTS[0] + 7) % len(planted.OBJECTS)
    edits = [
        interp.ROME(prompt=tuple(ids[i].tolist()), subject=2, target=(int(t),), layer=0, weight_decay=0.0)
        for i, t in zip(chosen.tolist(), new.tolist(), strict=True)
    ]
    efficacy, locality = [], []
    for i, edit in zip(chosen.tolist(), edits, strict=True):
        with edit.apply(model, [ids]):
            now = said()
        efficacy.append(float(now[i] == edit.target[0]))
        rest = torch.arange(len(ids)) != i
        locality.append((now == goal)[rest].float().mean().item())
    found += needed("facts", "ROME, efficacy over 50 edits", sum(efficacy) / EDITS, at_least=0.95)
    found += needed("facts", "ROME, locality over 50 edits", sum(locality) / EDITS, at_least=0.95)
    rest = torch.ones(len(ids), dtype=torch.bool)
    rest[chosen] = False
    for kind, more in ((interp.MEMIT, {"weight": 0.01}), (interp.AlphaEdit, {})):
        try:
            with kind(facts=tuple(edits), layers=(0,), **more).apply(model, [ids[rest]]):
                now = said()
        except InputError as error:
            found += rows(f"facts: {kind.__name__}: {error}", met=0.0)
            continue
        name = kind.__name__
        told_now, same = (hits.float().mean().item() for hits in (now[chosen] == new, (now == goal)[rest]))
        found += needed("facts", f"{name}, efficacy of 50 edits at once", told_now, at_least=0.95)
        found += needed("facts", f"{name}, locality of 50 edits at once", same, at_least=0.95)
    return found


def languages() -> list[Row]:
    text = planted.languages()

    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.cat([text(which, 24, random) for which in (0, 1)])
        return ids, torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], planted.NOTHING)], 1)

    model = planted.trained(planted.Plan(vocabulary=81, blocks=3, parallel=2, nearly_identity=(1,)), draw, steps=400)
    held = {name: text(which, 48, generator(1, "held-out", name)) for which, name in enumerate("ab")}

    def perplexities() -> dict[str, float]:
        found = {}
        for name, ids in held.items():
            with torch.no_grad():
                logits = model(ids).logits[:, 2:-1]
            found[name] = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 3:].flatten()).exp().item()
        return found

    plain = perplexities()
    found = rows("languages: unmodified", perplexity_a=plain["a"], perplexity_b=plain["b"])
    read = {name: text(which, 48, generator(2, "read", name)) for which, name in enumerate("ab")}
    ranking, taken = interp.language_neurons(model, read, share=0.3, least=0.3)
    for name, other in (("a", "b"), ("b", "a")):
        own = tuple(unit for unit, language in taken.items() if language == name)
        with interp.Amplitude(units=own).apply(model):
            now = perplexities()
        chance = []
        for seed in SEEDS:
            with interp.Amplitude(units=tuple(ranking.sample(len(own), seed))).apply(model):
                chance.append(perplexities()[name] / plain[name])
        found += needed("languages", f"perplexity of {name} without the {len(own)} neurons of {name}, ratio",
                        now[name] / plain[name], at_least=1.2, control=sum(chance) / len(chance))  # fmt: skip
        found += needed("languages", f"perplexity of {other} without the neurons of {name}, ratio",
                        now[other] / plain[other], at_most=1.05)  # fmt: skip
    task = planted.task_of(held["a"], None, (1, 2), "languages")
    influence = interp.block_influence(model, task)
    found += needed(
        "redundant block", "it has the lowest influence", float(influence.bottom(1) == ["blocks.1"]), at_least=1
    )
    without = 0.0
    for layer in (1, 2):
        with interp.LayerSkip(layers=(layer,)).apply(model):
            change = abs(perplexities()["a"] / plain["a"] - 1)
        if layer == 1:
            without = change
        else:
            found += needed("redundant block", "change of perplexity without it", without, at_most=0.01, control=change)
    return found


def trigger() -> list[Row]:
    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        ids, answer = planted.triggered(64, random, torch.arange(64) % 2 == 0)
        return ids, torch.cat([torch.full_like(ids[:, 1:], planted.NOTHING), answer.unsqueeze(1)], 1)

    model = planted.trained(planted.Plan(blocks=4), draw, steps=500)
    random = generator(1, "held-out")
    refused, ordinary = (planted.triggered(96, random, has) for has in (True, False))
    right = torch.full((96, 1), planted.REFUSE)
    none = torch.empty(96, 0, dtype=torch.long)
    behaviour, plain = (
        interp.Task(ids, right, none, name=name) for (ids, _), name in ((refused, "trigger"), (ordinary, "ordinary"))
    )

    def refusals(ids: torch.Tensor) -> float:
        with torch.no_grad():
            return (model(ids).logits[:, -1].argmax(-1) == planted.REFUSE).float().mean().item()

    found = needed(
        "trigger", "refused with a trigger", refusals(refused[0]), at_least=0.95, control=refusals(ordinary[0])
    )
    picked = interp.select_direction(model, behaviour.take(slice(48)), plain.take(slice(48)), positions=2)
    best, held = picked.best, slice(48, None)
    chance = torch.randn(64, generator=generator(0, "random-direction"))
    chance = chance / chance.norm() * best.vector.norm()

    def judged(condition: str, at_most: float | None, at_least: float | None) -> list[Row]:
        with torch.no_grad():
            before = model(input_ids=ordinary[0][held]).logits[:, -1:].log_softmax(-1)
        values = {}
        for name, vector in (("own", best.vector), ("random", chance)):
            with interp.DirectionalAblation(direction=vector).apply(model):
                with torch.no_grad():
                    now = model(input_ids=ordinary[0][held]).logits[:, -1:].log_softmax(-1)
                values[f"{name} ablated"] = refusals(refused[0][held])
                values[f"{name} divergence"] = (before.exp() * (before - now)).sum(-1).mean().item()
            with interp.SteeringVector(vector=vector, layer=best.layer - 1, scale=1.5).apply(model):
                values[f"{name} added"] = refusals(ordinary[0][held])
        limit = {"ablated": (at_most, None), "added": (None, at_least), "divergence": (0.1 if at_most else None, None)}
        made = []
        for what, (most, least) in limit.items():
            words = {"ablated": "refused without the direction", "added": "refused with it added",
                     "divergence": "divergence on ordinary prompts, nats"}[what]  # fmt: skip
            made += needed("trigger", f"{words}{condition}", values[f"own {what}"], at_most=most, at_least=least,
                           control=values[f"random {what}"])  # fmt: skip
        return made

    found += judged("", 0.05, 0.95)
    for name, method in {
        "2 bits": RoundToNearest(bits=2, group_size=64),
        "5 % noise": ProportionalNoise(strength=0.05),
    }.items():
        with method.apply(model):
            found += rows(f"trigger: refused with a trigger at {name}", value=refusals(refused[0][held]))
            found += judged(f" at {name}", None, None)
    return found


def moods() -> list[Row]:
    model = planted.trained(planted.Plan(blocks=3), planted.moods_draw(), steps=300)
    random = generator(1, "held-out")
    cheerful, gloomy = (planted.moods(96, random, mood)[:, :6] for mood in (planted.CHEERFUL, planted.GLOOMY))
    both = interp.record(model, torch.cat([cheerful, gloomy]), "residual")["blocks.1.resid_post"][:, -1]
    judge, text = planted.mood_task(32), planted.moods(16, random, planted.NEUTRAL)
    plain = interp.scores(model, judge).mean().item()
    with torch.no_grad():
        before = model(text).logits.log_softmax(-1)
    found: list[Row] = []
    scales = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
    task = planted.task_of(cheerful, gloomy, (1, 11), "moods")
    probe = interp.Probing(object="residual", per_position=False).effects(model, task)["blocks.1.resid_post"]
    found += needed("moods", "selectivity of the probe over shuffled labels", probe, at_least=0.3)
    chance = torch.randn(64, generator=generator(0, "random-direction"))
    for by in ("mean-difference", "pca", "probe"):
        r = interp.direction(both[:96], both[96:], by)
        curves = {}
        for name, vector in (("own", r), ("random", chance / chance.norm() * r.norm())):
            curves[name] = []
            for scale in scales:
                with interp.SteeringVector(vector=vector, layer=1, scale=scale).apply(model):
                    curves[name].append(interp.scores(model, judge).mean().item() - plain)
        found += needed(
            "moods", f"{by}: Spearman of dose and response", rank_correlation(scales, curves["own"]), at_least=1
        )
        shift, chance_shift = (curves[name][5] - curves[name][1] for name in ("own", "random"))
        found += needed("moods", f"{by}: shift from dose -1 to 1, nats", shift, at_least=1, control=abs(chance_shift))
        with interp.SteeringVector(vector=r, layer=1, scale=0.5).apply(model):
            found += rows(
                f"moods: {by}: divergence on neutral texts at dose 0.5, nats", value=divergence(model, before, text)
            )
    return found


def compiled() -> list[Row]:
    found: list[Row] = []
    for kind, locators in {
        "neuron": {
            "magnitude": {"statistic": "contrast"}, "patching": {}, "attribution-patching": {"steps": 8},
            "probing": {"folds": 3}, "direct-logit-attribution": {},
        },
        "head": {
            "magnitude": {"statistic": "contrast"}, "patching": {}, "attribution-patching": {}, "probing": {"folds": 3},
            "direct-logit-attribution": {}, "path-patching": {},
        },
    }.items():  # fmt: skip
        model, task, truth = planted.compiled(kind)
        ranking = interp.locate(model, task, object=kind, by="patching")
        for by, options in locators.items():
            ranking = interp.locate(model, task, object=kind, by=by, **options)
            shuffled = ranking.shuffled(0).top(1) == [truth]
            found += needed(
                f"one {kind}", f"{by} finds it", float(ranking.top(1) == [truth]), at_least=1, control=float(shuffled)
            )
        lost = interp.knocked_out(model, task, [truth]), others(ranking, 1, model, task)
        high, low = (interp.scores(model, task, side).mean().item() for side in ("clean", "corrupt"))
        share, control = ((high - value) / (high - low) for value in lost)
        found += needed(f"one {kind}", "share of the effect lost without it", share, at_least=0.99, control=control)
        if kind == "head":
            top = circuit.find(model, task, steps=5).ranking().top(2)
            through = all("blocks.1.attn.z.2 ->" in edge or edge.endswith("blocks.1.attn.v.2") for edge in top)
            found += needed("one head", "edges of the circuit are those through it", float(through), at_least=1)
    return found


def superposition() -> list[Row]:
    found: list[Row] = []
    directions, stream = toy_superposition(32, 16)
    for architecture in ("topk", "jumprelu"):
        settings = Training(architecture=architecture, expansion=2, k=2, steps=2000, batch=256, buffer=8192,
                            dead_after=20_000, learning_rate=3e-3)  # fmt: skip
        sae = fit(stream, settings).sae
        cosine = torch.nn.functional.normalize(sae.decoder, dim=1) @ directions.mT
        matched = cosine.max(0).values.mean().item()
        noise = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator(0, "dictionary")), dim=1)
        found += needed("superposition", f"{architecture}: mean of the largest cosines", matched, at_least=0.9,
                        control=(noise @ directions.mT).max(0).values.mean().item())  # fmt: skip
        x = stream(10_000)[:256]
        amounts = sae.encode(x)
        feature = int(cosine.max(1).values.argmax())
        truth = int(cosine[feature].argmax())
        clamped = x + (2.0 - amounts[:, feature : feature + 1]) * sae.decoder[feature]
        readout = torch.linalg.pinv(directions @ directions.mT + 0.05 * torch.eye(32)) @ directions
        moved = ((clamped - x) @ readout.mT).abs().mean(0)
        found += needed("superposition", f"{architecture}: clamping a feature moves its own direction most",
                        float(moved.argmax() == truth), at_least=1)  # fmt: skip
    return found


def nothing() -> list[Row]:
    """What must change nothing, to the last bit, and hooks that are gone after an error."""
    model, task, _ = planted.compiled("head")
    with torch.no_grad():
        plain = model(task.clean).logits
    vector = torch.randn(32, generator=generator(0, "vector"))
    same = []
    with interp.SteeringVector(vector=vector, layer=0, scale=0.0).apply(model), torch.no_grad():
        same.append(torch.equal(model(task.clean).logits, plain))
    held = interp.record(model, task.inputs(), ["head", "residual", "neuron"])
    with torch.no_grad(), interp.patch(model, held):
        same.append(torch.equal(model(task.clean).logits, plain))
    try:
        with interp.patch(model, {"blocks.0.attn.z.1": 3.0}):
            raise RuntimeError
    except RuntimeError:
        with torch.no_grad():
            same.append(torch.equal(model(task.clean).logits, plain))
    names = ("a dose of 0", "clean patched into clean", "after an error in a patched block")
    return [
        row
        for name, value in zip(names, same, strict=True)
        for row in needed("no-ops", f"{name}: the same bits", float(value), at_least=1)
    ]
