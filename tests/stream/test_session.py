"""Streams of frames: what is kept, that nothing is shared, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import kv
from stream.small_vggt import TOKENS, frames, small

from hardy.core import Ranking
from hardy.errors import InputError
from hardy.runs.checkpoint import Checkpoint
from hardy.stream import FrameGeometry, KVPolicy, Protect, StreamSession, scorers
from hardy.stream import session as module
from hardy.stream.session import FrameLayer
from hardy.stream.vggt import PastFrames, VGGTConfig


def streamed(session: StreamSession, images: torch.Tensor) -> list[FrameGeometry]:
    return [session.step(image) for image in images]


@torch.no_grad()
def test_without_a_budget_and_in_sixteen_bits_it_is_the_causal_batch() -> None:
    model, images = small(), frames(6)
    batch = model(images[None], PastFrames(6))
    found = streamed(StreamSession(model), images)
    for name, whole in (("pose", batch.pose), ("depth", batch.depth), ("points", batch.points)):
        parts = torch.stack([getattr(frame, name) for frame in found])
        torch.testing.assert_close(parts, whole[0], atol=3e-3, rtol=3e-3)
    assert [frame.index for frame in found] == list(range(6))


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("name", scorers.SCORERS)
def test_the_first_and_the_current_frame_stay_and_no_more_than_the_budget(name: str, bits: int) -> None:
    model, images = small(), frames(14)
    session = StreamSession(model, KVPolicy(budget="9 frames", bits=bits, scorer=name))
    alone = StreamSession(model).step(images[0])
    for number, image in enumerate(images):
        found = session.step(image)
        if number == 0:
            assert torch.equal(found.depth, alone.depth), "a single frame is the same whatever the policy"
        for layer in session.layers:
            assert layer.store.length == min(9, number + 1) * TOKENS
            places = set(layer.store.positions[0, 0].tolist())
            assert set(range(number * TOKENS, (number + 1) * TOKENS)) <= places
            assert name == "sliding" or set(range(TOKENS)) <= places
    stats = session.stats
    assert stats["evicted"] == 4 * 5 * TOKENS
    assert stats["dense_bytes"] == 14 * 2 * 4 * 16 * TOKENS * 2
    assert (session.layers[0].store.packed > 0) == (bits == 4)
    assert not any(module._forward_hooks for module in model.modules()), "nothing stays on the model"


def test_what_stays_is_what_the_formula_of_xstreamvggt_says() -> None:
    """First frame, the best of the middle by pooled queries, current frame; and attention sees just what was kept."""
    tokens, special, heads, dim, count, budget = 37, 5, 2, 8, 4, 100
    policy = KVPolicy(budget=budget, scorer="pooled-query").for_frames(tokens, special)
    layer = FrameLayer(policy, 0, tokens)
    layer.tokens = budget
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, tokens * count, dim, generator=random)
    kept: list[int] = []
    for number in range(count):
        span = slice(number * tokens, (number + 1) * tokens)
        found = layer.attend(q[:, :, span], k[:, :, span], v[:, :, span])
        seen = kept + list(range(span.start, span.stop))
        wanted = torch.nn.functional.scaled_dot_product_attention(q[:, :, span], k[:, :, seen], v[:, :, seen])
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-2)
        if len(seen) > budget:
            middle = seen[tokens:-tokens]
            scores = kv.pooled_query(q[0, :, span], k[0, :, middle].half().float(), 16, special)
            best = sorted(range(len(middle)), key=lambda i: -scores[i])[: budget - 2 * tokens]
            seen = seen[:tokens] + sorted(middle[i] for i in best) + seen[-tokens:]
        kept = seen
        assert layer.store.positions[0, 0].tolist() == kept


@pytest.mark.parametrize(("height", "middle"), [(378, 40), (210, 928), (140, 1298), (392, -1)])
def test_a_budget_of_2048_tokens_is_what_it_says_or_refused(height: int, middle: int) -> None:
    """The original keeps 2,082 tokens of a budget of 2,048 where a frame has 1,041, and chooses none."""
    tokens = VGGTConfig().tokens(height, 518)
    policy = KVPolicy(budget=2048, bits=4, scorer="pooled-query")
    if middle < 0:
        with pytest.raises(InputError, match='2048 tokens.*less than what is protected.*give at least "2 frames"'):
            policy.for_frames(tokens, 5)
        return
    made = policy.for_frames(tokens, 5)
    assert made.rule == scorers.PooledQuery(pool=16, special=5)
    assert (made.first, made.guard.recent, made.evicted_at_once(2048)) == (tokens, tokens, 1)
    assert 2048 - made.first - made.guard.recent == middle


def test_error_falls_with_the_budget_where_attention_chooses() -> None:
    model, images = small(), frames(12)
    whole = streamed(StreamSession(model), images)[-1].depth
    errors = []
    for budget in (2, 5, 9, 12):
        policy = KVPolicy(budget=f"{budget}f", scorer="accumulated-attention")
        errors.append(float((streamed(StreamSession(model, policy), images)[-1].depth - whole).abs().mean()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] == 0


def test_two_sessions_on_one_model_do_not_touch_each_other() -> None:
    model = small()
    videos = frames(9, seed=1), frames(9, seed=2)
    for name in ("snapkv", "residual-shift"):
        policy = KVPolicy(budget="7f", bits=4, scorer=name)
        alone = [streamed(StreamSession(model, policy), images) for images in videos]
        sessions = [StreamSession(model, policy) for _ in videos]
        both = [[session.step(images[i]) for session, images in zip(sessions, videos, strict=True)] for i in range(9)]
        for which, wanted in enumerate(alone):
            assert all(torch.equal(step[which].depth, w.depth) for step, w in zip(both, wanted, strict=True))
            assert all(torch.equal(step[which].pose, w.pose) for step, w in zip(both, wanted, strict=True))


def test_the_camera_heads_caches() -> None:
    """Shared between refinements, as the public weights were used, even the first frame differs from a batch."""
    model, images = small(), frames(4)
    with torch.no_grad():
        batch = model(images[None], PastFrames(4)).pose[0]
    apart = streamed(StreamSession(model), images)
    shared = StreamSession(model, camera_cache="shared")
    found = streamed(shared, images)
    torch.testing.assert_close(apart[0].pose, batch[0], atol=1e-3, rtol=1e-3)
    assert float((found[0].pose - batch[0]).abs().max()) > 1e-3
    assert [layer.store.length for layer in shared.cameras.values()] == [12, 12]


def test_cameras_are_remembered_for_512_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.CAMERA_FRAMES * VGGTConfig().iterations == 2048
    monkeypatch.setattr(module, "CAMERA_FRAMES", 5)
    for kind, held in (("shared", 15), ("per-iteration", 5)):
        session = StreamSession(small(), KVPolicy(budget="3f"), camera_cache=kind)  # pyright: ignore[reportArgumentType]
        streamed(session, frames(9))
        assert {layer.store.length for layer in session.cameras.values()} == {held}


@pytest.mark.parametrize("name", ["sink-recent", "snapkv", "key-norm"])
@pytest.mark.parametrize("bits", [16, 4])
def test_bytes_are_a_ceiling_of_the_whole_session(name: str, bits: int) -> None:
    session = StreamSession(small(), KVPolicy(budget="60kB", bits=bits, scorer=name))
    sizes = []
    for image in frames(30):
        session.step(image)
        sizes.append(session.nbytes)
    assert max(sizes) <= 60_000
    assert max(sizes) > 40_000
    with pytest.raises(InputError, match="less than what is protected takes"):
        StreamSession(small(), KVPolicy(budget="12kB")).step(frames(1)[0])


def test_a_ranking_gives_layers_their_shares() -> None:
    scores = {f"aggregator.global_blocks.{number}": float(number) for number in range(4)}
    ranking = Ranking(scores=scores, meaning="test", unit="", by="test")
    session = StreamSession(small(), KVPolicy(budget="8f", layers=ranking))
    streamed(session, frames(20))
    lengths = [layer.store.length for layer in session.layers]
    assert lengths == sorted(lengths)
    assert sum(lengths) == pytest.approx(4 * 8 * TOKENS, abs=4)


def test_the_state_comes_back(tmp_path: Path) -> None:
    model, images, policy = small(), frames(13), KVPolicy(budget="9f", bits=4, scorer="residual-shift")
    whole = StreamSession(model, policy)
    wanted = streamed(whole, images)[-1]
    first, checkpoint = StreamSession(model, policy), Checkpoint(tmp_path / "s.safetensors", kind="s", identity={})
    streamed(first, images[:10])
    checkpoint.save(first.state_dict())
    second = StreamSession(model, policy)
    state = checkpoint.load()
    assert state is not None
    second.load_state_dict(state)
    found = streamed(second, images[10:])[-1]
    assert found.index == 12
    assert torch.equal(found.depth, wanted.depth)
    assert second.stats == whole.stats


def test_bfloat16_runs_and_keeps_bfloat16() -> None:
    model = small().to(torch.bfloat16)
    session = StreamSession(model, KVPolicy(budget="3f"))
    found = streamed(session, frames(4))[-1]
    assert found.depth.dtype == torch.float32
    assert session.layers[0].store.view(torch.bfloat16)[0].dtype == torch.bfloat16
    assert found.depth.isfinite().all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(8, 12, 3), r"must be a tensor \(3, height, width\)"),
        (torch.zeros(3, 8, 12, dtype=torch.uint8), "divide bytes by 255"),
        (torch.zeros(3, 8, 10), "multiples of the patch size 4, got 8 x 10"),
        (torch.full((3, 8, 12), torch.nan), "a frame must be finite"),
        (torch.full((3, 8, 12), 2.0), "from 0 to 1, got 2 to 2"),
        (torch.zeros(3, 12, 12), "12 x 12 pixels in a stream of 8 x 12"),
    ],
)
def test_frames_that_cannot_be_are_refused_and_the_stream_goes_on(frame: torch.Tensor, message: str) -> None:
    session = StreamSession(small(), KVPolicy(budget="3f"))
    session.step(frames(1)[0])
    with pytest.raises(InputError, match=message):
        session.step(frame)
    assert session.step(frames(2)[1], index=1).index == 1
    with pytest.raises(InputError, match="frame 4 is not the next of this stream, 2 is"):
        session.step(frames(1)[0], index=4)
    session.reset()
    assert session.step(torch.zeros(3, 12, 12), index=0).index == 0


def test_keys_that_are_not_finite_end_the_stream() -> None:
    model = small()
    session = StreamSession(model, KVPolicy(budget="3f"))
    session.step(frames(1)[0])
    weight: Any = model.aggregator.global_blocks[2].attn.qkv.weight  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        kept = weight.clone()
        weight[20] = torch.inf
    with pytest.raises(InputError, match="keys must be finite"):
        session.step(frames(1)[0])
    with torch.no_grad():
        weight.copy_(kept)
    with pytest.raises(InputError, match="failed half-way"):
        session.step(frames(1)[0])
    session.reset()
    session.step(frames(1)[0])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (KVPolicy(budget="1 frame"), 'give at least "2 frames"'),
        (KVPolicy(budget=10), "10 tokens.*less than what is protected"),
        (KVPolicy(budget="3f", protect="turn"), 'has protect="frame"'),
        (KVPolicy(budget=30, protect=Protect(first=20, recent=11)), "the first 20 and the last 11"),
    ],
)
def test_policies_that_do_not_suit_frames_are_refused(policy: KVPolicy, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamSession(small(), policy).step(frames(1)[0])


def test_models_that_do_not_stream_are_refused() -> None:
    other: Any = torch.nn.Linear(3, 3)
    with pytest.raises(InputError, match="runs a VGGT of hardy.stream.vggt, got Linear"):
        StreamSession(other)
    with pytest.raises(InputError, match="training mode"):
        StreamSession(small().train())
    with pytest.raises(InputError, match="camera_cache must be shared or per-iteration"):
        StreamSession(small(), camera_cache="own")  # pyright: ignore[reportArgumentType]
