"""The README.md of a packed folder says what it is, what it costs and how it is loaded."""

from pathlib import Path

from hardy.quant.model_card import model_card
from hardy.quant.unpacking import PACKED
from hardy.report import Report, Row

ROWS = (
    Row(metric="perplexity", condition="unmodified", value=10.0),
    Row(metric="perplexity", condition="packed", value=12.5),
    Row(metric="size", condition="packed", value=3.25, unit="MB"),
    Row(metric="bits_per_weight", condition="layer.0", value=9.0),
    Row(metric="bits_per_weight", condition=PACKED, value=3.453),
)
SETTINGS = {"method": "TritPlanes(planes=2)", "calibration": "own", "text": "held-out modules", "tokens": 1024}


def test_a_card_names_base_method_bits_size_and_perplexities(tmp_path: Path) -> None:
    report = Report(title="tiny, quantized", rows=ROWS, settings=SETTINGS, notes=("12 % stay dense",))
    card = model_card(report, tmp_path, name="small", base='me/"tiny"')
    head, _, body = card.partition("\n---\n\n")
    assert 'base_model: "me/\\"tiny\\""' in head
    assert "library_name: hardy" in head
    for fact in (
        "TritPlanes(planes=2)",
        "| 3.45 |",
        "3.2 MB",
        "| perplexity, packed | 12.50 |",
        "held-out modules, 1024",
    ):
        assert fact in body, fact
    assert "- 12 % stay dense" in body
    assert 'AutoModelForCausalLM.from_pretrained("small")' in body
    assert "import hardy.quant" in body
    assert "hardy chat" not in body


def test_a_model_that_talks_is_said_to(tmp_path: Path) -> None:
    report = Report(title="tiny, quantized", rows=ROWS, settings=SETTINGS)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert "`hardy chat small`" in model_card(report, tmp_path, name="small", base="tiny")
