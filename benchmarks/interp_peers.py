"""The same activations, attributions and patches by hardy, TransformerLens and nnsight, on one real model.

    python -m benchmarks run interp_peers

Indirect-object prompts on SmolLM2-135M: every activation that TransformerLens names as well, attribution of every head,
and six heads patched, compared value by value and timed in turns on one thread. Seconds are those of the processor, as
the machine may have other work. TransformerLens runs its bridge over the same transformers model, nnsight wraps it. The
most memory that each takes to attribute is of a process of its own, beside what it holds before.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import (
    NotMeasuredError,
    Result,
    Value,
    in_own_process,
    in_turns,
    mean_of,
    peak_memory,
    real_models,
    rows,
    timed,
)
from hardy import interp, zoo
from hardy.interp import prompts
from hardy.interp.locator import recorded

PEERS = ("transformer-lens", "nnsight", "transformers")
SAME = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn.z": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
}
SOME = tuple(f"blocks.{layer}.attn.z.{head}" for layer, head in ((2, 1), (8, 4), (14, 0), (18, 7), (23, 3), (28, 5)))
Acts = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]
"""What attributes all heads, (heads of all layers,), and what patches `SOME` of them, (6,)."""


def loaded(folder: str, examples: int) -> tuple[Any, interp.Task]:
    """The model and prompts of one length."""
    model, tokenizer = zoo.load(folder, dtype=torch.float32)
    task = interp.Task.of(prompts.indirect_object(tokenizer, examples), tokenizer)
    if task.mask is not None:
        keep = [i for i in range(len(task)) if task.mask[i].all()]
        task = interp.Task(*(t[keep] for t in (task.clean, task.right, task.wrong, task.corrupt) if t is not None))
    return model, task


def by_hardy(model: Any, task: interp.Task, folder: str) -> Acts:
    locator, patching = interp.AttributionPatching(object="head"), interp.Patching(among=SOME)
    return (
        lambda: torch.tensor(list(locator.effects(model, task).values())),
        lambda: torch.tensor(list(patching.effects(model, task).values())),
    )


def share(products: list[torch.Tensor], effect: torch.Tensor, heads: int) -> torch.Tensor:
    """Sums of (n, positions, heads * d_head) for each head of each layer, as a share of the effect."""
    return (torch.cat([p.unflatten(2, (heads, -1)).sum((0, 1, 3)) for p in products]) / effect).detach()


def by_transformer_lens(model: Any, task: interp.Task, folder: str) -> Acts:
    bridge = bridged(folder)
    heads = model.config.num_attention_heads
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.config.num_hidden_layers)]

    def attribute() -> torch.Tensor:
        with torch.no_grad():
            logits, clean = bridge.run_with_cache(task.clean, names_filter=lambda name: name in names)
        kept: dict[str, torch.Tensor] = {}

        def keeper(name: str) -> Any:
            def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:
                kept[name] = value
                return value

            return keep

        with torch.enable_grad(), bridge.hooks(fwd_hooks=[(name, keeper(name)) for name in names]):
            scores = task.score(bridge(task.corrupt))
            gradients = torch.autograd.grad(scores.sum(), [kept[name] for name in names])
        effect = (task.score(logits) - scores).sum()
        products = [
            (clean[n].flatten(2) - kept[n].detach().flatten(2)) * g.flatten(2)
            for n, g in zip(names, gradients, strict=True)
        ]
        return share(products, effect, heads)

    def patch() -> torch.Tensor:
        values = []
        wanted = {".".join(name.split(".")[:4]).replace(".z", ".hook_z") for name in SOME}
        with torch.no_grad():
            logits, clean = bridge.run_with_cache(task.clean, names_filter=lambda name: name in wanted)
            high, low = task.score(logits).mean(), task.score(bridge(task.corrupt)).mean()
            for name in SOME:
                layer, head = int(name.split(".")[1]), int(name.split(".")[-1])
                point = f"blocks.{layer}.attn.hook_z"

                def put(value: torch.Tensor, hook: Any, point: str = point, head: int = head) -> torch.Tensor:
                    new = value.clone().flatten(2).unflatten(-1, (heads, -1))
                    new[:, :, head] = clean[point].reshape(new.shape)[:, :, head]
                    return new.reshape(value.shape)

                score = task.score(bridge.run_with_hooks(task.corrupt, fwd_hooks=[(point, put)])).mean()
                values.append((score - low) / (high - low))
        return torch.stack(values)

    return attribute, patch


def bridged(folder: str) -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NotMeasuredError(f"{error}; pip install -r benchmarks/requirements.txt") from error
    bridge = TransformerBridge.boot_transformers(folder, dtype=torch.float32)
    bridge.eval()
    return bridge


def by_nnsight(model: Any, task: interp.Task, folder: str) -> Acts:
    try:
        from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NotMeasuredError(f"{error}; pip install -r benchmarks/requirements.txt") from error
    _, tokenizer = zoo.load(folder, dtype=torch.float32)
    wrapped: Any = LanguageModel(model, tokenizer=tokenizer)
    heads = model.config.num_attention_heads
    layers = wrapped.model.layers
    clean_ids, corrupt_ids = {"input_ids": task.clean}, {"input_ids": task.corrupt}

    def attribute() -> torch.Tensor:
        with torch.no_grad(), wrapped.trace(clean_ids):
            clean = [layer.self_attn.o_proj.input for layer in layers].save()  # pyright: ignore
            logits = wrapped.lm_head.output.save()
        with torch.enable_grad(), wrapped.trace(corrupt_ids):
            kept = [layer.self_attn.o_proj.input for layer in layers].save()  # pyright: ignore
            scores = task.score(wrapped.lm_head.output).save()  # pyright: ignore
            gradients = torch.autograd.grad(scores.sum(), kept).save()
        effect = (task.score(logits) - scores).sum()
        products = [(c - k.detach()) * g for c, k, g in zip(clean, kept, gradients, strict=True)]
        return share(products, effect, heads)

    def patch() -> torch.Tensor:
        values = []
        places = [(int(name.split(".")[1]), int(name.split(".")[-1])) for name in SOME]
        with torch.no_grad():
            with wrapped.trace(clean_ids):
                clean = [layers[layer].self_attn.o_proj.input for layer, _ in places].save()  # pyright: ignore
                logits = wrapped.lm_head.output.save()
            with wrapped.trace(corrupt_ids):
                others = wrapped.lm_head.output.save()
            high, low = task.score(logits).mean(), task.score(others).mean()
            for (layer, head), value in zip(places, clean, strict=True):
                size = value.shape[-1] // heads
                with wrapped.trace(corrupt_ids):
                    new = layers[layer].self_attn.o_proj.input.clone()
                    new[:, :, head * size : (head + 1) * size] = value[:, :, head * size : (head + 1) * size]
                    layers[layer].self_attn.o_proj.input = new
                    logits = wrapped.lm_head.output.save()
                values.append((task.score(logits).mean() - low) / (high - low))
        return torch.stack(values)

    return attribute, patch


BY: dict[str, Callable[[Any, interp.Task, str], Acts]] = {
    "hardy": by_hardy, "TransformerLens": by_transformer_lens, "nnsight": by_nnsight,
}  # fmt: skip


def memory(name: str, folder: str, examples: int) -> float:
    """MB that attribution takes at most, beside what the model and the library hold before."""
    model, task = loaded(folder, examples)
    attribute, _ = BY[name](model, task, folder)
    if name == "TransformerLens":
        del model  # the bridge has one of its own
    before = peak_memory("VmRSS")
    attribute()
    return max(0.0, peak_memory() - before)


def run(*, model: str = "", examples: int = 4, rounds: int = 3) -> Result:
    found = real_models(model)
    folder = str(found.get("smollm2-135m") or next(iter(found.values())))
    ours, task = loaded(folder, examples)
    layers = ours.config.num_hidden_layers
    acts = {name: by(ours, task, folder) for name, by in BY.items()}
    result = compared(ours, bridged(folder), task)
    mine = [act() for act in acts["hardy"]]
    for name, peer in acts.items():
        if name != "hardy":
            for what, value, act in zip(("attribution of heads", "patching of six heads"), mine, peer, strict=True):
                difference = (value - act()).abs().max().item()
                said = what if name == "TransformerLens" else f"{what}, {name}"
                result += rows(said, largest_difference=difference, largest=value.abs().max().item())
                print(what, name, difference, flush=True)
    seconds = in_turns(
        {
            f"{name}, {what}": timed(act, time.process_time)
            for name, both in acts.items()
            for what, act in zip(("attribution", "patching"), both, strict=True)
        },
        rounds=rounds,
        warm_up=0,
    )
    for name, values in seconds.items():
        result += rows(name, processor_seconds=mean_of(values, "s"))
    for what in ("attribution", "patching"):
        for peer in ("TransformerLens", "nnsight"):
            ratios = [a / b for a, b in zip(seconds[f"hardy, {what}"], seconds[f"{peer}, {what}"], strict=True)]
            result += rows(f"hardy / {peer}, {what}", ratio=mean_of(ratios))
            print(what, peer, ratios, flush=True)
    for name in BY:
        result += rows(f"{name}, attribution", memory=Value(in_own_process(memory, name, folder, examples), "MB"))
    return Result(rows=result, settings={"examples": len(task), "layers": layers, "threads": 1})


def compared(ours: Any, bridge: Any, task: interp.Task) -> list[Any]:
    """Every activation that both name, by hardy and by TransformerLens."""
    points = [f"blocks.{layer}.{name}" for layer in range(ours.config.num_hidden_layers) for name in SAME]
    seen, logits = recorded(ours, points, task.inputs())
    with torch.no_grad():
        their_logits, cache = bridge.run_with_cache(task.clean)
    result = rows("logits", largest_difference=(their_logits[:, -1] - logits).abs().max().item())
    for name, their_name in SAME.items():
        differences = []
        for layer in range(ours.config.num_hidden_layers):
            mine, theirs = seen[f"blocks.{layer}.{name}"], cache[f"blocks.{layer}.{their_name}"]
            differences.append(((mine - theirs.reshape(mine.shape)).abs().max() / mine.abs().max()).item())
        result += rows(name, largest_relative_difference=max(differences))
        print(name, max(differences), flush=True)
    return result
