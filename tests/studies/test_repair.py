import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hardy.analog import Deploy, Redundancy, hybrid_projection
from hardy.core import chain
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.device import AdditiveDevice
from hardy.report import Report
from hardy.studies import Plan, repair, repairs, survival
from hardy.studies.adapters import adapters_on, whole_layers
from hardy.studies.measure import measure
from hardy.studies.repair_methods import WITHOUT_NOISE
from hardy.zoo import Subject, load

SMALL = {"n_seeds": 2, "tokens": 64, "window": 32, "workers": 1}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("def add(first, second):\n    return first + second\n\n" * 60)
    return str(path)


def test_redundancy_is_measured_on_every_chip_instance_and_paid_for(
    micro_llama: Path, text: str, tmp_path: Path
) -> None:
    run = {**SMALL, "text": text, "out": tmp_path / "study", "copies": 3}
    report = repair(str(micro_llama), by="redundancy", chip="pcm", **run)
    assert not [note for note in report.notes if "seed" in note]
    names = tuple(
        f"model.layers.0.{part}_proj"
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    )
    subject = Subject.of(str(micro_llama), text=text, tokens=64, window=32)
    values = []
    for seed in (0, 1):
        method = chain(Redundancy(copies=3, select=names), Deploy(chip="pcm", seed=seed))  # pyright: ignore[reportArgumentType]
        found = measure(subject, {"part": "evaluation", "method": method.to_dict()}, seed)
        values.append(math.exp(found["loss"]))
    assert report.value("perplexity", "redundancy") == pytest.approx(math.sqrt(values[0] * values[1]))
    assert report.value("extra_arrays", "redundancy") == 14
    assert report.value("digital_macs", "redundancy") == 0
    assert {row.condition for row in report.select("perplexity")} == {
        "unmodified", "on the chip", "redundancy", "spent at random",
    }  # fmt: skip
    assert repair(str(micro_llama), by="redundancy", chip="pcm", **run).rows == report.rows


@pytest.mark.parametrize(("model", "by"), [("tiny-mamba", "hpd"), ("tiny-moe", "romer")])
def test_the_other_repairs(model: str, by, text: str) -> None:
    report = repair(model, by=by, text=text, **{**SMALL, "n_seeds": 1})
    assert not [note for note in report.notes if "seed" in note]
    assert math.isfinite(report.value("perplexity", by))
    assert report.value("extra_arrays", by) == 0
    split = 0.0
    if by == "hpd":
        split, of = report.value("split_layers", by), report.select("split_layers")[0].details["of"]
        assert 0 < split <= of == load(model)[0].config.num_hidden_layers
    assert report.value("sram_bits", by) == {"hpd": split * 16 * 256, "romer": 32 * 64}[by]
    assert report.value("digital_additions", by) == {"hpd": split * 256 * 8, "romer": 0}[by]
    assert report.select("perplexity", "spent at random"), "a control"


def test_what_is_split_is_decided_once_and_not_on_every_chip(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    plain = hybrid_projection.HybridLinear.__init__

    def counted(self: Any, *arguments: Any) -> None:
        made.append(arguments[3])
        plain(self, *arguments)

    monkeypatch.setattr(hybrid_projection.HybridLinear, "__init__", counted)
    report = repair("tiny-mamba", by="hpd", text=text, **{**SMALL, "n_seeds": 3}, layers="0:2")
    split = int(report.value("split_layers", "hpd"))
    # Two rotations of each are compared once; then each condition splits on three chips, and once to be counted.
    assert len(made) == 2 * 2 + split * (1 + 2 * 3)
    assert made[:4] == ["hadamard", "singular"] * 2


def test_what_it_refuses(micro_llama: Path, text: str) -> None:
    for fields, message in (
        ({"by": "redundncy"}, "repair must be one of hpd, romer, redundancy, halora, got 'redundncy'; did you mean"),
        ({"by": "hpd", "n_seeds": 0}, "n_seeds must be an integer of at least 1, got 0"),
        ({"by": "hpd"}, "selection 'ssm.out' matches nothing"),
        ({"by": "romer"}, "has no mixture of experts"),
        ({"by": "romer", "layers": "0"}, "romer repairs all experts and routers"),
        ({"by": "redundancy", "copies": 0}, "copies must be an integer from 1 to 64, got 0"),
        ({"by": "redundancy", "chip": "rerm-wan"}, "no chip 'rerm-wan'"),
        ({"by": "redundancy", "select": "embedding", "layers": None}, "matches nothing|takes whole nn.Linear"),
        ({"by": "redundancy", "select": "norm"}, "is a LlamaRMSNorm; it takes whole nn.Linear"),
        ({"by": "hpd", "select": "norm", "layers": "0"}, "is a LlamaRMSNorm; it takes nn.Linear"),
        ({"by": "halora", "steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"by": "halora", "rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({"by": "halora", "learning_rate": -1.0}, "learning_rate must be a finite number above 0, got -1.0"),
        ({"by": "halora", "select": "router"}, "selection 'router' matches nothing"),
    ):
        with pytest.raises(InputError, match=message):
            repair(str(micro_llama), **{**SMALL, "text": text, **fields})  # pyright: ignore[reportArgumentType]


def test_adapters_are_trained_once_and_stay_digital(micro_llama: Path, text: str, tmp_path: Path) -> None:
    run = {**SMALL, "text": text, "out": tmp_path / "study", "steps": 3, "rank": 2, "learning_rate": 1e-2}
    report = repair(str(micro_llama), by="halora", chip="reram-wan", **run)  # pyright: ignore[reportArgumentType]
    assert not [note for note in report.notes if "seed" in note]
    assert {row.condition for row in report.select("perplexity")} == {
        "unmodified", "on the chip", "halora", WITHOUT_NOISE,
    }  # fmt: skip
    model, _ = load(str(micro_llama))
    shapes = [model.get_submodule(name).weight.shape for name in whole_layers(model, None, None)]
    assert report.value("digital_macs", "halora") == sum(2 * (rows + columns) for rows, columns in shapes)
    assert report.value("sram_bits", "halora") == 16 * report.value("digital_macs", "halora")
    stored = sorted((tmp_path / "study" / "adapters").glob("*/adapter_model.safetensors"))
    assert len(stored) == 2
    written = [file.stat().st_mtime_ns for file in stored]
    again = repair(str(micro_llama), by="halora", chip="reram-wan", **run)  # pyright: ignore[reportArgumentType]
    assert again.rows == report.rows
    assert [file.stat().st_mtime_ns for file in stored] == written

    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    ids = torch.arange(8)[None]
    clean = model(ids).logits
    with adapters_on(model, stored[0].parent):
        adapted = model(ids).logits
        with Deploy(chip="reram-wan", seed=1).apply(model):
            layers = [module for name, module in model.named_modules() if name.endswith("q_proj.lora_A.default")]
            assert layers
            assert all(type(layer) is torch.nn.Linear for layer in layers)
            assert not torch.equal(model(ids).logits, adapted)
        with pytest.raises(InputError, match="cannot be merged"):
            next(m for m in model.modules() if hasattr(m, "lora_A")).merge()  # pyright: ignore[reportCallIssue]
    assert not torch.equal(adapted, clean)
    assert torch.equal(model(ids).logits, clean)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_several_repairs_are_one_table(text: str, tmp_path: Path) -> None:
    report = repairs("tiny-llama", ["suited"], out=tmp_path / "all", chip="reram-wan", text=text, **SMALL)  # pyright: ignore[reportArgumentType]
    rows = {row.condition: row for row in report.select("recovered")}
    assert set(rows) == {"redundancy", "redundancy, control"}
    alone = Report.load(tmp_path / "all" / "redundancy")
    assert rows["redundancy"].value == alone.value("recovered", "redundancy")
    assert rows["redundancy"].details == {
        "arrays": alone.value("extra_arrays", "redundancy"), "digital MACs": 0, "digital additions": 0, "SRAM bits": 0,
    }  # fmt: skip
    shares = [rows[name].value for name in ("redundancy", "redundancy, control")]
    assert f"redundancy {shares[0]:.0f} % (its control {shares[1]:.0f} %)" in report.summary[0]
    assert f"what it adds redundancy recovers {shares[0]:.0f} %" in alone.summary[0]
    with pytest.raises(InputError, match="there is no repair 'redundncy'; did you mean redundancy"):
        repairs("tiny-llama", ["redundncy"])


def test_nothing_lost_is_said(micro_llama: Path, text: str) -> None:
    chip = Chip(device=AdditiveDevice())
    report = repair(str(micro_llama), by="redundancy", chip=chip, text=text, **SMALL)  # pyright: ignore[reportArgumentType]
    assert not report.select("recovered")
    assert report.notes == ("The chip took no perplexity away: there is nothing to recover.",)
    assert report.summary[0].endswith("on the chip.")


def test_a_survival_study_takes_repairs_in(text: str, tmp_path: Path) -> None:
    plan = Plan(bits=(8,), additive=(), proportional=(), n_seeds=1, keep=(0.02,), select="mlp.down")
    options = {"plan": plan, "text": text, "tokens": 64, "window": 32, "workers": 1, "chip": "reram-wan"}
    with pytest.raises(InputError, match="there is no repair 'hdp'"):
        survival("tiny-llama", out=tmp_path / "study", repairs=("hdp",), **options)  # pyright: ignore[reportArgumentType]
    for refused, message in (
        ({"repairs": ("hpd",)}, "'ssm.out' matches nothing"),
        ({"repairs": ("redundancy",), "chip": "rerm-wan"}, "no chip 'rerm-wan'"),
    ):
        with pytest.raises(InputError, match=message):
            survival("tiny-llama", out=tmp_path / "study", **{**options, **refused})  # pyright: ignore[reportArgumentType]
    assert not list((tmp_path / "study").glob("cells/*")), "before anything was measured"
    report = survival("tiny-llama", out=tmp_path / "study", repairs=("redundancy",), **options)  # pyright: ignore[reportArgumentType]
    assert len(report.select("recovered")) == 2
    assert report.figures[-1].title == "Perplexity recovered"
    assert Report.load(tmp_path / "study").rows == report.rows
