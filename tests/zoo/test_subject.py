import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf_files import write_gguf

import hardy
from hardy.errors import InputError
from hardy.studies import Plan, locate, reasoning, repair, repairs, simulate, survival
from hardy.studies.quantize import quantize
from hardy.zoo import Subject, load
from hardy.zoo.subject import spread_windows

TEXT = {"tokens": 128, "window": 64}
PLAN = Plan(bits=(8,), additive=(), proportional=(0.2,), n_seeds=1, group_size=16, keep=(0.2,))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was loaded in this process."""
    found: list[Any] = []
    load_one = transformers.AutoModelForCausalLM.from_pretrained

    def counted(*arguments: Any, **keywords: Any) -> Any:
        found.append(keywords)
        return load_one(*arguments, **keywords)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", counted)
    return found


JOBS: dict[str, Callable[[Any, Path], Any]] = {
    "survival": lambda model, out: survival(model, out=out, plan=PLAN, repairs=("redundancy",), workers=1, **TEXT),
    "simulate": lambda model, out: simulate(model, out=out, chip="pcm", n_seeds=1, workers=1, **TEXT),
    "repair": lambda model, out: repair(model, by="redundancy", out=out, n_seeds=1, workers=1, **TEXT),
    "repairs": lambda model, out: repairs(model, ["suited"], out=out, n_seeds=1, workers=1, **TEXT),
    "halora": lambda model, out: repair(model, by="halora", out=out, n_seeds=1, steps=2, workers=1, **TEXT),
    "locate": lambda model, out: locate(model, by="rtn", group_size=16, workers=1, **TEXT),
    "locate by spectrum": lambda model, out: locate(model, by="lieq-v1", **TEXT),
    "locate on a chip": lambda model, out: locate(model, by="noise-sensitivity", unit="role", seeds=(0,), **TEXT),
    "quantize": lambda model, out: quantize(
        model, out, bits=(2, 4), budget=4.0, by="energy-gain", group_size=16, **TEXT
    ),
}


@pytest.mark.parametrize("job", JOBS)
def test_every_study_takes_a_subject_and_loads_a_name_once(
    micro_llama: Path, tmp_path: Path, loads: list[Any], job: str
) -> None:
    named = JOBS[job](str(micro_llama), tmp_path / "named")
    assert len(loads) == 1
    subject = Subject.of(str(micro_llama))
    before = subject.digest
    given = JOBS[job](subject, tmp_path / "given")
    assert len(loads) == 2
    if isinstance(named, hardy.report.Report):  # the size before is on disk for a name, and in memory for a subject
        given, named = ([row for row in report.rows if row.metric != "size"] for report in (given, named))
    assert given == named
    assert subject.digest == before, "the user's model is as it was"
    assert all(parameter.requires_grad for parameter in subject.model.parameters())


def test_the_reasoning_study_loads_once(loads: list[Any]) -> None:
    reasoning(problems=4, n_seeds=1, levels=(0.1,), copies=1, workers=1)
    assert len(loads) == 1


def test_a_model_in_memory_is_measured_by_other_processes_too(micro_llama: Path) -> None:
    model, tokenizer = load(str(micro_llama))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2.0)  # so it is not what any folder holds
    options: dict[str, Any] = {"by": "rtn", "group_size": 16, **TEXT}
    assert locate((model, tokenizer), workers=2, **options) == locate((model, tokenizer), workers=1, **options)
    assert locate((model, tokenizer), workers=1, **options) != locate(str(micro_llama), workers=1, **options)


def test_a_subject_says_what_it_is(micro_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hardy"):
        subject = Subject.of(micro_llama, dtype="bfloat16", **TEXT)
    assert (subject.dtype, subject.device, subject.name) == (torch.bfloat16, torch.device("cpu"), str(micro_llama))
    (line,) = caplog.messages
    assert line.startswith(f"{micro_llama}: 0.0 M parameters, bfloat16 (0 MB), cpu, ")
    assert subject.size == sum(p.numel() * 2 for p in subject.model.parameters()) + sum(
        b.numel() * b.element_size() for b in subject.model.buffers()
    )
    assert subject.settings()["dtype"] == "bfloat16"
    assert subject.digest != Subject.of(micro_llama, dtype="float32").digest


def test_the_dtype_is_float32_unless_another_is_asked_for_and_more_memory_is_said(
    micro_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Subject.of("tiny-llama").dtype == torch.float32  # stored in float16
    model, tokenizer = load(micro_llama, dtype="bfloat16")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "hardy"):
        assert Subject.of(tmp_path).dtype == torch.float32
    assert any(line.startswith("it is stored in bfloat16; dtype auto keeps that") for line in caplog.messages)
    assert Subject.of(tmp_path, dtype="auto").dtype == torch.bfloat16


def test_what_does_not_fit_is_refused_before_it_swaps(micro_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardy.zoo.loading.available_memory", lambda: 60_000)
    with pytest.raises(InputError, match=r"takes 0.0 GB in float32, 0.0 GB are free; give a smaller dtype"):
        Subject.of(micro_llama)
    assert Subject.of(micro_llama, dtype="auto")


def test_a_subject_of_a_subject_takes_another_text(micro_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("def add(first, second):\n    return first + second\n\n" * 60)
    subject = Subject.of(micro_llama, **TEXT)
    assert Subject.of(subject).windows is subject.windows or Subject.of(subject).tokens == 128
    other = Subject.of(subject, text=tmp_path / "text", tokens=64)
    assert other.model is subject.model
    assert (other.tokens, other.window, len(other.windows["evaluation"])) == (64, 64, 1)
    assert other.settings()["text_sha256"] != subject.settings()["text_sha256"]


def test_what_is_in_memory_is_not_moved_cast_or_taken_in_training(micro_llama: Path) -> None:
    model, tokenizer = load(micro_llama)
    for source in ((model, tokenizer), Subject.of((model, tokenizer))):
        with pytest.raises(InputError, match=r"in memory in torch.float32; cast it yourself"):
            Subject.of(source, dtype="bfloat16")
        with pytest.raises(InputError, match="in memory on cpu; move it yourself"):
            Subject.of(source, device="meta")
    with pytest.raises(InputError, match=r"given as \(model, tokenizer\), got \(LlamaForCausalLM\)"):
        Subject.of((model,))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="Linear has no config"):
        Subject.of((torch.nn.Linear(2, 2), tokenizer))
    with pytest.raises(InputError, match=r"in training mode; measure it after model.eval\(\)"):
        Subject.of((model.train(), tokenizer))


def test_bad_devices_and_dtypes_are_refused(micro_llama: Path) -> None:
    with pytest.raises(InputError, match="dtype must be auto, float32, bfloat16, float16, got 'bfloat'; did you mean"):
        Subject.of(micro_llama, dtype="bfloat")
    with pytest.raises(InputError, match="dtype must be auto, .*got torch.int8"):
        Subject.of(micro_llama, dtype=torch.int8)
    for device in ("gpu", "cuda:77"):
        with pytest.raises(InputError, match=f"device '{device}' is not there.*give cpu, cuda, cuda:1 or auto"):
            Subject.of(micro_llama, device=device)


def test_windows_and_token_counts_out_of_range_are_refused(micro_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"window must be in 2\.\.64.*got 65"):
        Subject.of(micro_llama, tokens=128, window=65)
    with pytest.raises(InputError, match="at least one window of 64, got 63"):
        Subject.of(micro_llama, tokens=63, window=64)
    (tmp_path / "short").write_text("x = 1")
    with pytest.raises(InputError, match="less than one window of 64"):
        Subject.of(micro_llama, text=tmp_path / "short", tokens=64, window=64).settings()


def test_a_tokenizer_of_another_model_is_refused(micro_llama: Path) -> None:
    model, _ = load(str(micro_llama))
    _, tokenizer = load("tiny-llama")
    subject = Subject.of((model, tokenizer), window=32)
    with pytest.raises(
        InputError, match=r"tokenizer gives token [\d,]+ of the text, and its embedding has 270 rows: they are"
    ):
        subject.batches("evaluation")


def test_windows_are_spread_from_the_first_token_to_the_last() -> None:
    ids = torch.arange(1000)
    windows = spread_windows(ids, 10, 50, None)
    assert [len(w) for w in windows] == [10] * 5
    assert windows[0][0] == 0
    assert windows[-1][-1] == 999
    with_begin = spread_windows(ids, 10, 50, torch.tensor([0]))
    assert all(w[0] == 0 for w in with_begin)
    assert with_begin[0].tolist() == list(range(10))
    assert with_begin[-1][-1] == 999
    assert [w.tolist() for w in spread_windows(torch.arange(5), 10, 50, None)] == [[0, 1, 2, 3, 4]]


def test_a_gguf_file_is_the_model_in_it(micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(micro_llama, path)
    model, _ = load(micro_llama)
    subject = Subject.of(path, **TEXT)
    ids = torch.arange(20)[None]
    assert subject.dtype == torch.float32
    assert torch.allclose(subject.model(ids).logits, model(ids).logits, atol=1e-5)
    assert len(subject.tokenizer) == len(load(micro_llama)[1])
    assert len(locate(subject, by="weight-error", group_size=16)) == 14
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'GGUF file, which the gguf package reads: pip install "hardy-nn\[export\]"'):
        load(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00", b"x" * 5000])
def test_a_damaged_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match="cannot read the configuration of model"):
        load(tmp_path / "model.gguf")
