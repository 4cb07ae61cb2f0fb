import math
from pathlib import Path

import pytest

from hardy.analog import Deploy, Redundancy
from hardy.core import chain
from hardy.errors import InputError
from hardy.studies import repair
from hardy.studies.measure import measure, settings_for

SMALL = {"seeds": 2, "tokens": 64, "window": 32, "workers": 1}


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
    assert not report.notes
    names = tuple(
        f"model.layers.0.{part}_proj"
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    )
    settings = settings_for(str(micro_llama), text, 64, 32)
    values = []
    for seed in (0, 1):
        method = chain(Redundancy(copies=3, select=names), Deploy(chip="pcm", seed=seed))  # pyright: ignore[reportArgumentType]
        found = measure(settings, {"part": "evaluation", "method": method.to_dict()}, seed)
        values.append(math.exp(found["loss"]))
    assert report.value("perplexity", "redundancy") == pytest.approx(sum(values) / 2)
    assert report.value("extra_arrays", "redundancy") == 14
    assert report.value("digital_macs", "redundancy") == 0
    assert {row.condition for row in report.select("perplexity")} == {
        "unmodified", "on the chip", "redundancy", "spent at random",
    }  # fmt: skip
    assert repair(str(micro_llama), by="redundancy", chip="pcm", **run).rows == report.rows


@pytest.mark.parametrize(("model", "by"), [("tiny-mamba", "hpd"), ("tiny-moe", "romer")])
def test_the_other_repairs(model: str, by, text: str) -> None:
    report = repair(model, by=by, text=text, **{**SMALL, "seeds": 1})
    assert not report.notes
    assert math.isfinite(report.value("perplexity", by))
    assert report.value("extra_arrays", by) == 0
    assert report.value("sram_bits", by) == {"hpd": 16 * 128 * 256, "romer": 32 * 64}[by]


def test_what_it_refuses(micro_llama: Path, text: str) -> None:
    for fields, message in (
        ({"by": "redundncy"}, "repair must be one of hpd, romer, redundancy, got 'redundncy'; did you mean"),
        ({"by": "hpd", "seeds": 0}, "seeds must be at least 1, got 0"),
        ({"by": "hpd"}, "selection 'ssm.out' matches nothing"),
        ({"by": "romer"}, "has no mixture of experts"),
        ({"by": "romer", "layers": "0"}, "romer repairs all experts and routers"),
        ({"by": "redundancy", "copies": 0}, "copies must be an integer from 1 to 64, got 0"),
        ({"by": "redundancy", "chip": "rerm-wan"}, "no chip 'rerm-wan'"),
    ):
        with pytest.raises(InputError, match=message):
            repair(str(micro_llama), **{**SMALL, "text": text, **fields})  # pyright: ignore[reportArgumentType]
