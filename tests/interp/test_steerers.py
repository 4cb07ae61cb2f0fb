"""Amplitudes, head vectors, DoLa, merging, located training, LoReFT, many facts: against their formulas or aims."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import assert_same, same_bytes, snapshot

from hardy import hooks, interp
from hardy.errors import InputError
from hardy.interp import (
    MEMIT,
    ROME,
    AlphaEdit,
    Amplitude,
    DoLa,
    HeadVectors,
    LayerSkip,
    LoReFT,
    MaskedFineTuning,
    SteeringVector,
    Task,
    TaskVectors,
    Unlearning,
    select_direction,
    write_task_vector,
)
from hardy.interp.dola import contrasted
from hardy.interp.memit import projected, spread
from hardy.interp.task_vectors import ties
from hardy.interp.tuning import SparseAdam, next_token_loss, parts_of


def logits(model: Any, ids: torch.Tensor, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def task(n: int = 12) -> Task:
    g = torch.Generator().manual_seed(2)
    clean = torch.randint(3, 60, (n, 5), generator=g)
    corrupt = clean.clone()
    clean[:, -1], corrupt[:, -1] = 60, 61
    return Task(clean, torch.full((n, 1), 10), torch.full((n, 1), 20), corrupt)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt", "gemma3"])
@pytest.mark.parametrize("name", ["blocks.1.attn.z.2", "blocks.0.mlp.post.7", "blocks.1.attn_out", "embed"])
def test_amplitude_is_what_a_patch_does(architecture: str, name: str, ids: torch.Tensor) -> None:
    model: Any = models.build(architecture)
    before = snapshot(model)
    with torch.no_grad(), interp.patch(model, {name: lambda x: 2.5 * x}):
        expected = model(input_ids=ids).logits
    with Amplitude(units=(name,), scale=2.5).apply(model):
        torch.testing.assert_close(logits(model, ids), expected)
    with torch.no_grad(), interp.patch(model, {name: 1.5}):
        expected = model(input_ids=ids).logits
    with Amplitude(units=(name,), value=1.5).apply(model):
        torch.testing.assert_close(logits(model, ids), expected)
    plain = logits(model, ids)
    with Amplitude(units=(name,), scale=1.0).apply(model):
        assert same_bytes(logits(model, ids), plain)
    assert_same(before, model)


def test_amplitude_refuses_what_is_not_there() -> None:
    model = models.build("llama")
    for name, message in (
        ("blocks.1.attn.z.4", "not there: blocks.1.attn.z has 4"),
        ("blocks.5.attn.z.0", "no activation"),
        ("blocks.1.resid_mid", "met inside of"),
    ):
        with pytest.raises(InputError, match=message):
            Amplitude(units=(name,)).apply(model)


def test_skipped_blocks_are_not_run_and_generation_goes_on(ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    with (
        torch.no_grad(),
        hooks.patch(model, {"blocks.1.attn_out": torch.zeros_like, "blocks.1.mlp_out": torch.zeros_like}),
    ):
        expected = model.generate(ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=None)
    with LayerSkip(layers=(1,)).apply(model):
        assert torch.equal(model.generate(ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=None), expected)
    with pytest.raises(InputError, match="layer must be a block"):
        LayerSkip(layers=(2,)).apply(model)


def test_dropped_tokens_are_as_if_nothing_could_see_them(ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    dropped = interp.without_tokens({"input_ids": ids}, [1])
    kept = torch.cat([ids[:, :1], ids[:, 2:]], 1)
    places = torch.cat([torch.zeros(1), torch.arange(2, ids.shape[1])]).long()[None].expand(len(ids), -1)
    expected = logits(model, kept, position_ids=places)[:, -1]
    with torch.no_grad():
        torch.testing.assert_close(model(**dropped).logits[:, -1], expected)
    with pytest.raises(InputError, match="the last token cannot be dropped"):
        interp.without_tokens({"input_ids": ids}, [-1])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_head_vectors_add_at_their_heads(architecture: str, ids: torch.Tensor) -> None:
    model: Any = models.build(architecture)
    given = task()
    method = HeadVectors.of(model, given, interp.Probing(object="head", shuffles=1).locate(model, given), k=2, scale=3)

    def by_hand(point: str) -> Any:
        def put(z: torch.Tensor) -> torch.Tensor:
            new = z.clone()
            for name, vector in zip(method.heads, method.vectors, strict=True):
                if name.startswith(f"{point}."):
                    new[:, :, int(name.rpartition(".")[2])] += 3 * torch.tensor(vector)
            return new

        return put

    points = {name.rpartition(".")[0] for name in method.heads}
    with torch.no_grad(), hooks.patch(model, {point: by_hand(point) for point in points}):
        expected = model(input_ids=ids).logits
    with method.apply(model):
        torch.testing.assert_close(logits(model, ids), expected)
    seen = interp.record(model, given.inputs(), method.heads[0].rpartition(".")[0])
    assert len(method.vectors[0]) == next(iter(seen.values())).shape[-1]


def test_a_condition_is_compared_with_the_stream(ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    g = torch.Generator().manual_seed(1)
    vector, condition = torch.randn(32, generator=g), torch.randn(32, generator=g)
    with SteeringVector(vector=vector, layer=0, above=0.1, condition=condition).apply(model):
        got = logits(model, ids)

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        where = torch.cosine_similarity(x, condition, -1) > 0.1
        assert where.any()
        assert not where.all()
        return torch.where(where.unsqueeze(-1), x + vector, x)

    with torch.no_grad(), hooks.patch(model, {"blocks.0.resid_post": by_hand}):
        torch.testing.assert_close(got, model(input_ids=ids).logits)
    with pytest.raises(InputError, match="condition needs above="):
        SteeringVector(vector=vector, layer=0, condition=condition)


def test_dola_contrasts_by_its_formula(ids: torch.Tensor) -> None:
    final, early = torch.tensor([2.0, 1.0, -9.0]), [torch.tensor([2.0, 1.0, -9.0]), torch.tensor([0.0, 3.0, 0.0])]
    got = contrasted(final, early, 0.1)
    expected = final.log_softmax(-1) - early[1].log_softmax(-1)  # the first is the same, the second differs
    torch.testing.assert_close(got[:2], expected[:2])
    assert got[2] == -torch.inf
    model: Any = models.build("llama")
    with DoLa(layers=(0,), plausible=0.01).apply(model):
        made = model.generate(ids[:1], max_new_tokens=3, do_sample=False, eos_token_id=None)
        step = logits(model, made[:, :-1])[0, -1]
    assert step.argmax() == made[0, -1]
    with pytest.raises(InputError, match="before the last block, 0 to 0, got 1"):
        DoLa(layers=(1,)).apply(model)


def test_ties_trims_elects_and_averages() -> None:
    a, b, c = torch.tensor([4.0, -1.0, 0.1]), torch.tensor([2.0, 3.0, 0.0]), torch.tensor([-5.0, 2.0, 0.0])
    torch.testing.assert_close(ties([a, b, c], 1.0), torch.tensor([3.0, 2.5, 0.1]))
    torch.testing.assert_close(ties([a, b, c], 1 / 3), torch.tensor([-5.0, 3.0, 0.0]))


def test_task_vectors_add_up_to_the_tuned_model_and_take_it_away(tmp_path: Path, ids: torch.Tensor) -> None:
    base: Any = models.build("llama", tied=True)
    tuned: Any = models.build("llama", tied=True, seed=3)
    file = str(write_task_vector(base, tuned, tmp_path / "v.safetensors"))
    before = snapshot(base)
    with TaskVectors(files=(file,)).apply(base):
        torch.testing.assert_close(logits(base, ids), logits(tuned, ids))
        assert base.lm_head.weight is base.model.embed_tokens.weight
    with TaskVectors(files=(file, file), by="ties", keep=1.0).apply(base):
        torch.testing.assert_close(logits(base, ids), logits(tuned, ids))
    assert_same(before, base)
    with pytest.raises(InputError, match="is of another model"):
        TaskVectors(files=(file,)).apply(models.build("gpt2"))
    with pytest.raises(InputError, match="the same"):
        write_task_vector(base, base, tmp_path / "none")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_only_what_was_located_is_trained_and_remembered(architecture: str, ids: torch.Tensor) -> None:
    model: Any = models.build(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = ("blocks.0.mlp.post.7", "blocks.0.mlp.post.9")
    with MaskedFineTuning(units=names, steps=5, learning_rate=1e-2).apply(model, [ids]) as change:
        changed = {name: (value != before[name]) for name, value in model.state_dict().items()}
        moved = {name: mask for name, mask in changed.items() if mask.any()}
        assert all("mlp" in name and ".0." in name for name in moved)
        assert all(mask.any(0).sum() == 2 or mask.any(1).sum() == 2 for mask in moved.values())
        assert change.report.value("loss", "after") < change.report.value("loss", "before")
        assert change.report.value("optimizer_state", "beside training all") < 0.05
        assert not any(parameter.grad is not None for parameter in model.parameters())
    assert all(same_bytes(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match="needs batches"):
        MaskedFineTuning(units=names).apply(model)
    with pytest.raises(InputError, match="no weights of its own: train heads"):
        MaskedFineTuning(units=("blocks.0.resid_post",)).apply(model, [ids])


def test_sparse_adam_is_adam_on_what_it_holds(ids: torch.Tensor) -> None:
    model: Any = models.build("gpt2")
    dense: Any = models.build("gpt2")
    from hardy.core.surgery import Edits

    parts = parts_of(model, ["blocks.0.mlp_out"])
    sparse = SparseAdam(model, Edits(model), parts, 1e-2)
    wanted = [dense.get_submodule(part.module).weight for part in parts]
    adam = torch.optim.Adam(wanted, lr=1e-2)
    for _ in range(3):
        sparse.step(next_token_loss(model, ids))
        adam.zero_grad()
        next_token_loss(dense, ids).backward()
        adam.step()
    for part, weight in zip(parts, wanted, strict=True):
        torch.testing.assert_close(model.get_submodule(part.module).weight, weight)


def test_unlearning_forgets_and_keeps_more_than_ascent_alone(ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    kept = torch.randint(3, 64, (4, 8), generator=torch.Generator().manual_seed(5))
    forget = tuple(ids[0].tolist())
    settings: dict[str, Any] = {"units": ("blocks.0.mlp_out", "blocks.1.mlp_out"), "steps": 30, "learning_rate": 1e-2}

    def losses(retain: float) -> tuple[float, float]:
        with Unlearning(forget=(forget,), retain=retain, enough=9.0, **settings).apply(model, [kept]), torch.no_grad():
            return next_token_loss(model, ids[:1]).item(), next_token_loss(model, kept).item()

    with torch.no_grad():
        before = next_token_loss(model, ids[:1]).item()
    with_loss, alone = losses(1.0), losses(0.0)
    assert with_loss[0] > before + 0.3
    assert with_loss[1] < alone[1]


def test_loreft_learns_an_answer_at_the_last_position_and_keeps_its_subspace() -> None:
    model: Any = models.build("llama")
    given = task()
    before = interp.scores(model, given).mean()
    found = LoReFT.train(model, given, layer=0, rank=2, steps=40, learning_rate=5e-2)
    with found.apply(model):
        assert interp.scores(model, given).mean() > before + 0.5
        with torch.no_grad(), hooks.record(model, "blocks.0.resid_post") as seen:
            model(input_ids=given.clean)
    with torch.no_grad(), hooks.record(model, "blocks.0.resid_post") as plain:
        model(input_ids=given.clean)
    moved = (seen["blocks.0.resid_post"] - plain["blocks.0.resid_post"])[:, -1]
    r = torch.tensor(found.rotation)
    torch.testing.assert_close(moved, moved @ r.mT @ r, atol=1e-4, rtol=1e-3)
    assert same_bytes(seen["blocks.0.resid_post"][:, :-1], plain["blocks.0.resid_post"][:, :-1])


def test_many_facts_by_their_formulas() -> None:
    g = torch.Generator().manual_seed(0)
    keys, missing = torch.randn(6, 2, generator=g).double(), torch.randn(4, 2, generator=g).double()
    other = torch.randn(6, 3, generator=g).double()
    moment = other @ other.mT / 3
    change = spread(keys, missing, moment + 1e-9 * torch.eye(6), 1e-6)
    torch.testing.assert_close(change @ keys, missing, atol=1e-2, rtol=1e-2)
    change, free = projected(keys, missing, moment, 0.02, 1e-9)
    assert free == 3
    torch.testing.assert_close(change @ keys, missing, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(change @ other, torch.zeros(4, 3).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", [MEMIT, AlphaEdit])
def test_several_facts_are_told_at_once(kind: Any, ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    facts = tuple(
        ROME(
            prompt=(5 + i, 6, 17 + i),
            subject=2,
            target=(40 + i,),
            layer=0,
            steps=20,
            weight_decay=0.0,
            clamp=50,
            divergence=0.0,
        )
        for i in range(3)
    )
    more: dict[str, Any] = {"weight": 1e-4} if kind is MEMIT else {"small": 1.0}

    def told() -> torch.Tensor:
        rows = [logits(model, torch.tensor([fact.prompt]))[0, -1].log_softmax(-1) for fact in facts]
        return torch.stack([row[fact.target[0]] for row, fact in zip(rows, facts, strict=True)])

    before = told()
    with kind(facts=facts, layers=(0, 1), **more).apply(model, [ids]) as change:
        after = told()
    assert (after > before).all()
    goal = change.report.value("target_log_probability", "with the values found")
    assert after.mean().item() == pytest.approx(goal, abs=0.05)
    with pytest.raises(InputError, match="needs batches of ordinary text"):
        kind(facts=facts, layers=(0,)).apply(model)


def test_the_planted_direction_is_selected() -> None:
    model: Any = models.build("llama", tied=False)
    r = torch.zeros(32)
    r[5] = 1
    # Token 60 writes the direction, and the head reads it for token 10.
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.mul_(0.02)
            block.self_attn.o_proj.weight.mul_(0.02)
        model.model.embed_tokens.weight[:, 5] = 0
        model.model.embed_tokens.weight[60] = 0.1 * model.model.embed_tokens.weight[60] + r
        model.lm_head.weight[10] = 4 * r
        model.lm_head.weight[20] = 0.0
    clean = task(9)
    ordinary = Task(clean.corrupt if clean.corrupt is not None else clean.clean, clean.right, clean.wrong)
    with torch.no_grad():
        model.lm_head.weight[20] = (
            -0.2 * model.model.embed_tokens.weight[61] / model.model.embed_tokens.weight[61].norm()
        )
    found = select_direction(model, clean, ordinary, leave_out=0.0, most_divergence=1.0)
    assert found.best.vector.abs().argmax() == 5
    assert found.best.ablated < interp.scores(model, clean).mean()
    with pytest.raises(InputError, match=r"none of .* directions passes"):
        select_direction(model, clean, ordinary, leave_out=0.0, most_divergence=0.0)
