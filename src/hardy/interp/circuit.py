"""Circuits: which edges between heads, MLPs, embedding and logits carry a behaviour.

Edge attribution patching (Syed et al. 2023) and its integrated form (Hanna et al. 2024, EAP-IG on the inputs):
score(u -> v) = sum of (corrupt - clean output of u) x gradient at the input of v. Faithfulness, CPR and CMD as in the
Mechanistic Interpretability Benchmark (Mueller et al. 2025). The score of an edge is exactly the gradient of a mask
that mixes the corrupt output of u into what v reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn

from hardy import checks, hooks
from hardy.core.ranking import Ranking
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hooks.blocks import Block, blocks_of
from hardy.interp.baking import refuse_norms_after
from hardy.interp.task import Task, last_logits
from hardy.runs.progress import track


@dataclasses.dataclass(frozen=True)
class Graph:
    """Senders and receivers of a model, and which can reach which.

    Attributes:
        senders: "embed", "blocks.0.attn.z.0" (a head's part of the attention's output), "blocks.0.mlp_out", ...
        receivers: "blocks.0.attn.q.0", "blocks.0.attn.k.0", "blocks.0.attn.v.0", "blocks.0.mlp", ..., "logits".
        possible: (senders, receivers), whether the sender is before the receiver.
        blocks: of the model.
        heads: (heads, kv_heads).
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    possible: torch.Tensor
    blocks: tuple[Block, ...]
    heads: tuple[int, int]

    @classmethod
    def of(cls, model: nn.Module) -> Graph:
        """The graph of a decoder with attention and MLP in every block.

        Raises:
            InputError: parts of a block are not the sums that edges are between.
        """
        blocks = blocks_of(model)
        refuse_norms_after(model)
        senders, receivers = ["embed"], []
        order: list[tuple[int, int]] = []  # of a receiver: how many senders are before it
        for block in blocks:
            attention = block.attention.get("attn")
            if attention is None or not block.stream.mlp or "experts" in block.mlp or not block.stream.attention:
                raise InputError(f"{block.name}: edges are between heads and MLPs, and it is no block of both")
            counts = {"q": attention.heads, "k": attention.kv_heads, "v": attention.kv_heads}
            for part, count in counts.items():
                receivers += [f"{block.label}.attn.{part}.{i}" for i in range(count)]
            order += [(len(senders), sum(counts.values()))]
            before = len(senders)
            senders += [f"{block.label}.attn.z.{i}" for i in range(attention.heads)]
            receivers.append(f"{block.label}.mlp")
            order += [(len(senders) if block.stream.middle else before, 1)]
            senders.append(f"{block.label}.mlp_out")
        receivers.append("logits")
        order.append((len(senders), 1))
        possible = torch.zeros(len(senders), len(receivers), dtype=torch.bool)
        column = 0
        for before, width in order:
            possible[:before, column : column + width] = True
            column += width
        first = blocks[0].attention["attn"]
        return cls(tuple(senders), tuple(receivers), possible, tuple(blocks), (first.heads, first.kv_heads))

    @property
    def edges(self) -> int:
        """How many there are."""
        return int(self.possible.sum())

    @property
    def points(self) -> list[str]:
        """Activations that hold what all senders write."""
        labels = [block.label for block in self.blocks]
        return ["blocks.0.resid_pre", *[f"{n}.{part}" for n in labels for part in ("attn.result", "mlp_out")]]

    def outputs(self, seen: dict[Any, torch.Tensor]) -> torch.Tensor:
        """What every sender writes, (senders, n, positions, d_model)."""
        parts = [seen["blocks.0.resid_pre"].unsqueeze(0)]
        for block in self.blocks:
            parts += [
                seen[f"{block.label}.attn.result"].permute(2, 0, 1, 3),
                seen[f"{block.label}.mlp_out"].unsqueeze(0),
            ]
        return torch.cat(parts)


@dataclasses.dataclass(frozen=True)
class Circuit:
    """Scores of all edges of a model for a task.

    Attributes:
        graph: whose.
        scores: (senders, receivers), signed: what the task's score loses, to first order, when the edge carries what it
            does in the corrupt run, as a share of the whole effect. Zero where there is no edge.
        by: how they were found.
    """

    graph: Graph
    scores: torch.Tensor
    by: str

    def ranking(self) -> Ranking:
        """The edges, "blocks.0.attn.z.3 -> blocks.1.attn.k.2", by the size of their scores."""
        at = self.graph.possible.nonzero()
        names = [f"{self.graph.senders[u]} -> {self.graph.receivers[v]}" for u, v in at.tolist()]
        values = self.scores[self.graph.possible].abs()
        meaning = "share of the effect that the edge carries, to first order"
        return Ranking.from_array(values, names, meaning=meaning, unit="share of the effect", by=self.by)

    def top(self, k: int) -> torch.Tensor:
        """(senders, receivers): the `k` edges of the largest scores, less those that lead nowhere."""
        checks.integer("k", k, at_least=0, at_most=self.graph.edges)
        size = self.scores.abs().masked_fill(~self.graph.possible, -1.0)
        chosen = torch.zeros_like(self.graph.possible).flatten()
        chosen[size.flatten().topk(k).indices] = True
        return chosen.view_as(self.graph.possible)

    def random(self, k: int, seed: int) -> torch.Tensor:
        """`k` edges at random: the control."""
        places = self.graph.possible.flatten().nonzero().flatten()
        picked = places[torch.randperm(len(places), generator=generator(seed, "random-edges"))[:k]]
        chosen = torch.zeros(self.graph.possible.numel(), dtype=torch.bool)
        chosen[picked] = True
        return chosen.view_as(self.graph.possible)


def find(model: nn.Module, task: Task, *, steps: int = 5, batch: int = 8) -> Circuit:
    """Edge attribution patching.

    Args:
        model: a decoder whose blocks are attention and MLP.
        task: with corrupt prompts.
        steps: gradients are averaged at so many points between the clean and the corrupt embeddings (EAP-IG); 1 is
            plain EAP, with the gradient of the clean run.
        batch: examples at once.

    Raises:
        InputError: the model has no such graph, or clean and corrupt score the same.
    """
    checks.integer("steps", steps, at_least=1)
    graph = Graph.of(model)
    total = torch.zeros(graph.possible.shape, dtype=torch.float64)
    effect = 0.0
    for part in track(list(task.batches(batch)), "edges"):
        with torch.no_grad():
            with hooks.record(model, [*graph.points, "embed"]) as seen:
                clean_score = part.score(last_logits(model, part.inputs()))
            clean, start = graph.outputs(seen), seen["embed"]
            with hooks.record(model, [*graph.points, "embed"]) as seen:
                corrupt_score = part.score(last_logits(model, part.inputs("corrupt")))
            difference, end = graph.outputs(seen) - clean, seen["embed"]
            seen.clear()
        effect += (clean_score - corrupt_score).double().sum().item()
        for step in range(steps):
            gradients = receiver_gradients(model, graph, part, start + (end - start) * (step / steps))
            flat = difference.flatten(1).float()
            total += (flat @ gradients.flatten(1).float().mT).double().cpu() / steps
    if abs(effect) / len(task) < 1e-6:
        raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
    scores = (-total / effect).masked_fill(~graph.possible, 0.0)
    if not torch.isfinite(scores).all():
        raise InputError("an activation or gradient is not finite")
    return Circuit(graph, scores, "eap" if steps == 1 else f"eap-ig, {steps} steps")


def receiver_gradients(model: nn.Module, graph: Graph, task: Task, embedding: torch.Tensor) -> torch.Tensor:
    """(receivers, n, positions, d_model): gradient of the summed score at the stream as each receiver reads it."""
    points = []
    for block in graph.blocks:
        middle = "resid_mid" if block.stream.middle else "resid_pre"
        points += [
            f"{block.label}.{p}" for p in dict.fromkeys(("resid_pre", "attn.q", "attn.k", "attn.v", middle, "mlp_out"))
        ]
    last = f"{graph.blocks[-1].label}.resid_post"

    def rooted(x: torch.Tensor) -> torch.Tensor:
        return embedding.detach().requires_grad_()

    with torch.enable_grad(), hooks.patch(model, {"embed": rooted}), hooks.record(model, [*points, last]) as seen:
        score = task.score(last_logits(model, task.inputs())).sum()
        wanted = [
            name for name in [*points, last] if name.rpartition(".")[2] in ("q", "k", "v", "mlp_out", "resid_post")
        ]
        at = dict(zip(wanted, torch.autograd.grad(score, [seen[n] for n in wanted], retain_graph=True), strict=True))
        found = []
        for block in graph.blocks:
            label = block.label
            for part in "qkv":
                output, gradient = seen[f"{label}.attn.{part}"], at[f"{label}.attn.{part}"]
                for head in range(output.shape[2]):
                    only = torch.zeros_like(gradient)
                    only[:, :, head] = gradient[:, :, head]
                    found += torch.autograd.grad(output, seen[f"{label}.resid_pre"], only, retain_graph=True)
            middle = "resid_mid" if block.stream.middle else "resid_pre"
            found += torch.autograd.grad(
                seen[f"{label}.mlp_out"], seen[f"{label}.{middle}"], at[f"{label}.mlp_out"], retain_graph=True
            )
        found.append(at[last])
    return torch.stack([gradient.detach() for gradient in found])


class EdgePatched:
    """Runs the clean prompts of a task with edges that carry what they do in the corrupt run.

    Every receiver reads its own stream: the current one, with the corrupt output of a sender mixed in by the edge's
    mask. Exact, and differentiable in the mask.
    """

    def __init__(self, model: nn.Module, graph: Graph, task: Task) -> None:
        self.model, self.graph, self.task = model, graph, task
        with torch.no_grad(), hooks.record(model, graph.points) as seen:
            self.corrupt_score = task.score(last_logits(model, task.inputs("corrupt")))
        self.corrupt = graph.outputs(seen).detach()
        with torch.no_grad():
            self.clean_score = task.score(last_logits(model, task.inputs()))

    def scores(self, corrupted: torch.Tensor) -> torch.Tensor:
        """The score of each example, (n,).

        Args:
            corrupted: (senders, receivers): 0 for an edge as it is, 1 for one that carries the corrupt output.
        """
        with self._edges(corrupted.to(self.corrupt)):
            return self.task.score(last_logits(self.model, self.task.inputs()))

    @contextlib.contextmanager
    def _edges(self, mask: torch.Tensor) -> Iterator[None]:
        graph, model = self.graph, self.model
        now: list[torch.Tensor] = []  # what the senders so far wrote, less what they write in the corrupt run

        def wrote(x: torch.Tensor) -> None:
            parts = x.permute(2, 0, 1, 3) if x.ndim == 4 else x.unsqueeze(0)
            start = sum(map(len, now))
            now.append(self.corrupt[start : start + len(parts)] - parts)

        def shifts(receivers: slice) -> torch.Tensor:
            """(receivers, n, positions, d_model): what each reads beside the stream."""
            senders = torch.cat(now)
            return torch.einsum("ur,unpd->rnpd", mask[: len(senders), receivers], senders)

        watch: dict[Any, Callable[[torch.Tensor], None]] = {"blocks.0.resid_pre": wrote}
        change: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {}
        column = 0
        for block in graph.blocks:
            change |= self._reads(block, column, shifts)
            column += sum(1 for name in graph.receivers if name.startswith(f"{block.label}."))
            watch |= {f"{block.label}.attn.result": wrote, f"{block.label}.mlp_out": wrote}
        change[f"{graph.blocks[-1].label}.resid_post"] = lambda x: x + shifts(slice(column, column + 1))[0]
        with hooks.watch(model, watch), hooks.patch(model, change):
            yield

    def _reads(self, block: Block, column: int, shifts: Callable[[slice], torch.Tensor]) -> dict[Any, Any]:
        attention, model = block.attention["attn"], self.model
        streams: dict[str, torch.Tensor] = {}
        norm = input_norm(model, block)
        heads = {"q": attention.heads, "k": attention.kv_heads, "v": attention.kv_heads}
        parallel = not block.stream.middle
        end = column + sum(heads.values())

        def enter(x: torch.Tensor) -> torch.Tensor:
            streams["in"] = x
            streams["attention"] = shifts(slice(column, end))
            if parallel:
                streams["mlp"] = shifts(slice(end, end + 1))[0]
            return x

        def projected(part: str) -> Callable[[torch.Tensor], torch.Tensor]:
            begin = {"q": 0, "k": heads["q"], "v": heads["q"] + heads["k"]}[part]

            def put(x: torch.Tensor) -> torch.Tensor:
                own = streams["attention"][begin : begin + heads[part]]
                read = (streams["in"].unsqueeze(0) + own).flatten(0, 1)
                name = attention.parts.get(part) or attention.parts["qkv"]
                module: Any = model.get_submodule(f"{block.name}.{name}")
                whole = type(module).forward(module, read if norm is None else norm(read))
                from hardy.hooks.point import resolve

                point = resolve(model, [f"{block.label}.attn.{part}"])[0]
                every = point.take(whole, x.shape[:2]).unflatten(0, (heads[part], -1))  # (receiver, n, pos, head, d)
                return torch.stack([every[head, :, :, head] for head in range(heads[part])], 2)

            return put

        found: dict[Any, Any] = {f"{block.label}.resid_pre": enter}
        found |= {f"{block.label}.attn.{part}": projected(part) for part in "qkv"}
        entry = block.stream.middle or _mlp_entry(model, block)
        if parallel:
            found[(f"{block.name}.{entry}", "input")] = lambda x: x + streams["mlp"]
        else:
            found[(f"{block.name}.{entry}", "input")] = lambda x: x + shifts(slice(end, end + 1))[0].view_as(x)
        return found


def input_norm(model: nn.Module, block: Block) -> Any:
    """The norm before the attention of a block.

    Raises:
        InputError: it is not known.
    """
    module = model.get_submodule(block.name)
    for name in ("input_layernorm", "ln_1", "self_attn_layer_norm", "attention_norm", "operator_norm"):
        if (norm := getattr(module, name, None)) is not None:
            return norm
    raise InputError(f"{block.name} ({type(module).__name__}): the norm before its attention is not known")


def _mlp_entry(model: nn.Module, block: Block) -> str:
    module = model.get_submodule(block.name)
    norm = next((n for n in ("post_attention_layernorm", "ln_2") if getattr(module, n, None) is not None), None)
    if norm is None:
        raise InputError(f"{block.name}: attention and MLP read one norm, so their edges cannot be told apart")
    return norm


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """How much of a behaviour circuits of several sizes keep.

    Attributes:
        sizes: shares of all edges.
        values: (score of the circuit - corrupt) / (clean - corrupt) at each size.
        cpr: area under the curve over the share of edges: higher is better (circuit performance ratio).
        cmd: area between the curve and 1: lower is better (circuit-model distance).
    """

    sizes: tuple[float, ...]
    values: tuple[float, ...]
    cpr: float
    cmd: float


SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def faithfulness(
    model: nn.Module, task: Task, masks: Callable[[int], torch.Tensor], graph: Graph, *,
    sizes: Sequence[float] = SIZES, batch: int = 8,
) -> Faithfulness:  # fmt: skip
    """Keep the edges that `masks` gives for each size, and corrupt all others.

    Args:
        model, task: as of `find`.
        masks: number of edges -> (senders, receivers) those that are kept.
        graph: of the model.
        sizes: shares of the edges.
        batch: examples at once.
    """
    kept = [masks(round(size * graph.edges)) for size in sizes]
    sums, clean, corrupt = np.zeros(len(sizes)), 0.0, 0.0
    for part in track(list(task.batches(batch)), "faithfulness"):
        patched = EdgePatched(model, graph, part)
        clean += patched.clean_score.double().sum().item()
        corrupt += patched.corrupt_score.double().sum().item()
        for index, mask in enumerate(kept):
            with torch.no_grad():
                sums[index] += patched.scores((~mask & graph.possible).float()).double().sum().item()
    if abs(clean - corrupt) / len(task) < 1e-6:
        raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
    values = (sums - corrupt) / (clean - corrupt)
    cpr, cmd = (float(trapezoid(y, sizes)) for y in (values, np.abs(1 - values)))
    return Faithfulness(tuple(sizes), tuple(values.tolist()), cpr, cmd)
