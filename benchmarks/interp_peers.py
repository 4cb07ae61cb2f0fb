"""The same activations, attributions and patches by hardy and by TransformerLens, on one real model and its prompts.

    python -m benchmarks run interp_peers

Indirect-object prompts on SmolLM2-135M: every activation that both name, attribution of every head, and six heads
patched, compared value by value and timed in turns. TransformerLens runs its bridge over the same transformers model.
"""

from typing import Any

import torch

from benchmarks.harness import NotMeasuredError, Result, in_turns, mean_of, real_models, rows, timed
from hardy import interp, zoo
from hardy.interp import prompts
from hardy.interp.locator import recorded

PEERS = ("transformer-lens", "transformers")
SAME = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn.z": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
}


def run(*, model: str = "", examples: int = 4, rounds: int = 2) -> Result:
    try:
        from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NotMeasuredError(f"{error}; pip install -r benchmarks/requirements.txt") from error
    found = real_models(model)
    folder = str(found.get("smollm2-135m") or next(iter(found.values())))
    ours: Any
    ours, tokenizer = zoo.load(folder, dtype=torch.float32)
    bridge = TransformerBridge.boot_transformers(folder, dtype=torch.float32)
    bridge.eval()
    task = interp.Task.of(prompts.indirect_object(tokenizer, examples), tokenizer)
    if task.mask is not None:
        keep = [i for i in range(len(task)) if task.mask[i].all()]
        task = interp.Task(*(t[keep] for t in (task.clean, task.right, task.wrong, task.corrupt) if t is not None))
    layers = ours.config.num_hidden_layers
    points = [f"blocks.{layer}.{name}" for layer in range(layers) for name in SAME]
    seen, logits = recorded(ours, points, task.inputs())
    with torch.no_grad():
        their_logits, cache = bridge.run_with_cache(task.clean)
    result = rows("logits", largest_difference=(their_logits[:, -1] - logits).abs().max().item())
    for name, their_name in SAME.items():
        differences = []
        for layer in range(layers):
            mine, theirs = seen[f"blocks.{layer}.{name}"], cache[f"blocks.{layer}.{their_name}"]
            differences.append(((mine - theirs.reshape(mine.shape)).abs().max() / mine.abs().max()).item())
        result += rows(name, largest_relative_difference=max(differences))
        print(name, max(differences), flush=True)

    def peer_attribution() -> torch.Tensor:
        names = [f"blocks.{layer}.attn.hook_z" for layer in range(layers)]
        with torch.no_grad():
            _, clean = bridge.run_with_cache(task.clean, names_filter=lambda name: name in names)
        kept: dict[str, torch.Tensor] = {}

        def keeper(name: str) -> Any:
            def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:
                kept[name] = value
                return value

            return keep

        with torch.enable_grad(), bridge.hooks(fwd_hooks=[(name, keeper(name)) for name in names]):
            scores = task.score(bridge(task.corrupt))
            gradients = torch.autograd.grad(scores.sum(), [kept[name] for name in names])
        with torch.no_grad():
            clean_score = task.score(bridge(task.clean))
        effect = (clean_score - scores).sum()
        heads = ours.config.num_attention_heads
        products = [
            ((clean[n].flatten(2) - kept[n].detach().flatten(2)) * g.flatten(2))
            .unflatten(2, (heads, -1))
            .sum((0, 1, 3))
            for n, g in zip(names, gradients, strict=True)
        ]
        return (torch.cat(products) / effect).detach()

    locator = interp.AttributionPatching(object="head")
    theirs = peer_attribution()
    mine = torch.tensor(list(locator.effects(ours, task).values()))
    result += rows(
        "attribution of heads", largest_difference=(mine - theirs).abs().max().item(), largest=mine.abs().max().item()
    )
    print("attribution", (mine - theirs).abs().max().item(), flush=True)
    some = tuple(
        f"blocks.{layer}.attn.z.{head}" for layer, head in ((2, 1), (8, 4), (14, 0), (18, 7), (23, 3), (28, 5))
    )
    with torch.no_grad():
        _, clean_cache = bridge.run_with_cache(task.clean)

    def peer_patching() -> list[float]:
        values = []
        with torch.no_grad():
            low, high = (task.score(bridge(ids)).mean() for ids in (task.corrupt, task.clean))
            for name in some:
                layer, head = int(name.split(".")[1]), int(name.split(".")[-1])
                point = f"blocks.{layer}.attn.hook_z"

                def put(value: torch.Tensor, hook: Any, point: str = point, head: int = head) -> torch.Tensor:
                    new = (
                        value.clone().unflatten(-1, (ours.config.num_attention_heads, -1))
                        if value.ndim == 3
                        else value.clone()
                    )
                    new[:, :, head] = clean_cache[point].reshape(new.shape)[:, :, head]
                    return new.reshape(value.shape)

                score = task.score(bridge.run_with_hooks(task.corrupt, fwd_hooks=[(point, put)])).mean()
                values.append(((score - low) / (high - low)).item())
        return values

    patching = interp.Patching(among=some)
    differences = [abs(a - b) for a, b in zip(patching.effects(ours, task).values(), peer_patching(), strict=True)]
    result += rows("patching of six heads", largest_difference=max(differences))
    contenders = {
        "hardy, attribution": lambda: locator.effects(ours, task), "TransformerLens, attribution": peer_attribution,
        "hardy, patching": lambda: patching.effects(ours, task), "TransformerLens, patching": peer_patching,
    }  # fmt: skip
    seconds = in_turns({name: timed(act) for name, act in contenders.items()}, rounds=rounds, warm_up=0)
    for name, values in seconds.items():
        result += rows(name, seconds=mean_of(values, "s"))
    for what in ("attribution", "patching"):
        ratios = [a / b for a, b in zip(seconds[f"hardy, {what}"], seconds[f"TransformerLens, {what}"], strict=True)]
        result += rows(f"hardy / TransformerLens, {what}", ratio=mean_of(ratios))
    return Result(rows=result, settings={"examples": len(task), "layers": layers}, notes=["nnsight is not measured"])
