"""Reports: exact round trips, the same bytes every time, nothing from users obeyed, no file half written."""

import ast
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import hardy.report as report_module
from hardy.errors import InputError, printable
from hardy.report import Report, Row
from hardy.report.display import format_measurement, format_number
from hardy.report.figures import Bars, BarSeries, HeatMap, Lines, Series, save_png
from hardy.report.pictures import Pictures

NASTY = """<script>alert("1")</script> | a_b * [c](https://example.org) & 'd' ]]> --> \x1b[31m `$x$`"""

LINES = Lines(
    title="Perplexity against bits",
    caption="Round-to-nearest breaks.",
    x_label="bits",
    y_label="perplexity",
    log_y=True,
    series=(
        Series(label="trit-planes", x=(2, 3, 4), y=(9.8, 5.9, 5.4), spread=(0.5, 0.1, math.nan)),
        Series(label="round to nearest", x=(2, 3, 4), y=(math.inf, 44.0, math.nan), style="points"),
        Series(label="control", x=(2, 4), y=(-1.0, 5.3), style="dashed"),
    ),
)
BARS = Bars(
    title="Protection",
    caption="",
    y_label="perplexity",
    groups=("none", "4 layers"),
    series=(
        BarSeries(label="most fragile", values=(31.0, math.inf), spread=(2.0, math.nan)),
        BarSeries(label="random", values=(31.0, -math.inf), style="hatched"),
    ),
)
HEAT_MAP = HeatMap(
    title="Fragility",
    caption="Missing: not measured.",
    rows=("layer 0", "layer 1"),
    columns=("q", "k", "v"),
    values=((0.1, None, math.inf), (math.nan, 0.0, 3.0)),
    unit="rise of perplexity",
    log=True,
)
PICTURES = Pictures.of(
    "Renderings", "Beside the photo.", ("view 1",), ("photo", "rendering"), [[np.zeros((4, 6, 3)), np.ones((4, 6, 3))]]
)
FIGURES = (LINES, BARS, HEAT_MAP, PICTURES)


def example(**changes) -> Report:
    values = {
        "title": "Does it survive?",
        "summary": ("Yes, at 3 bits.",),
        "rows": (
            Row(metric="perplexity", condition="float32", value=5.3121, details={"bits_per_weight": 32.0}),
            Row(metric="perplexity", condition="2 bits", value=math.inf, baseline="float32", unit="nats"),
            Row(metric="perplexity", condition="3 bits", value=5.91, spread=0.021, n=3, seeds=(0, 1, 2)),
            Row(metric="energy", condition="chip", value=math.nan, details={"note": "inf", "limit": math.inf}),
        ),
        "figures": FIGURES,
        "settings": {"model": "tiny-llama", "seeds": [0, 1], "versions": {"torch": "2.13"}, "limit": -math.inf},
        "notes": ("No drift.",),
    }
    return Report(**(values | changes))


# ---------------------------------------------------------------- JSON

words = st.text(max_size=12)
reals = st.floats(width=64)
details = st.dictionaries(words, st.one_of(st.none(), st.booleans(), st.integers(), reals, words), max_size=4)
rows = st.builds(
    Row,
    metric=words,
    condition=words,
    value=reals,
    spread=st.none() | st.floats(min_value=0) | st.just(math.nan),
    n=st.integers(1, 10**6),
    unit=words,
    seeds=st.lists(st.integers(), max_size=3).map(tuple),
    baseline=st.none() | words,
    details=details,
)
free = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), reals, words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=4), st.dictionaries(words, free, max_size=3), st.lists(words, max_size=2))
def test_json_round_trip_is_exact_for_any_rows_and_settings(some, made_with, sentences):
    report = Report(title="t", rows=tuple(some), settings=made_with, summary=tuple(sentences))
    text = report.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = Report.from_json(text)
    assert again.to_json() == text
    # repr, since NaN is not equal to itself; it also tells 1 from 1.0 and "inf" from infinity.
    assert repr(again) == repr(report)


def test_json_round_trip_keeps_figures_from_text_and_from_dict():
    report = example()
    text = report.to_json()
    assert repr(Report.from_json(text)) == repr(report)
    assert repr(Report.from_json(json.loads(text))) == repr(report)
    assert json.loads(text)["format"] == "hardy-report"
    assert [figure["kind"] for figure in json.loads(text)["figures"]] == ["lines", "bars", "heat map", "pictures"]


def test_reports_that_hold_infinity_as_a_text_are_read():
    text = example().to_json()
    value = json.loads(text)
    value["rows"][1]["value"], value["rows"][3]["value"] = "inf", "nan"
    value["figures"][0]["series"][1]["y"][0] = "inf"
    assert Report.from_json(value).to_json() == text


def test_numbers_of_numpy_become_plain_ones():
    row = Row(metric="m", condition="c", value=np.float32(1.5), n=np.int64(3), details={"bits": np.float64(2.5)})
    assert (type(row.value), type(row.n), type(row.details["bits"])) == (float, int, float)
    heat_map = HeatMap(title="", caption="", rows=["a"], columns=["b", "c"], values=np.array([[1.0, np.nan]]))
    assert heat_map.values == ((1.0, None),)


# ---------------------------------------------------------------- refusing what is wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Row(metric="m", condition="c", value="high"), "value of m of 'c' must be a number, got 'high'"),
        (lambda: Row(metric="m", condition="c", value=True), "must be a number, got True"),
        (lambda: Row(metric="m", condition="c", value=1, spread=-1), "spread of m of 'c' must not be negative, got -1"),
        (lambda: Row(metric="m", condition="c", value=1, n=0), "n of m of 'c' must be an integer of at least 1, got 0"),
        (lambda: Row(metric="m", condition="\ud800", value=1), "condition must be valid Unicode"),
        (lambda: Row(metric="m", condition="c", value=1, details={"a": [1]}), r"details\['a'\] .* got \[1\]"),
        (lambda: Series(label="a", x=(1, 2), y=(1,)), "series 'a' needs 2 values in y, got 1"),
        (lambda: Series(label="a", x=(math.inf,), y=(1,)), "x of series 'a' must be finite, .* got inf"),
        (lambda: Series(label="a", x=(1,), y=(1,), style="bold"), "must be line, points or dashed, got 'bold'"),
        (lambda: Report(title="t", summary="one sentence"), "summary must be a list, got 'one sentence'"),
        (lambda: Report(title="t", rows=({"metric": "m"},)), "rows must hold Row only"),
        (lambda: Report(title="t", figures=("plot.png",)), "figures must hold Lines, Bars, HeatMap or Pictures"),
        (lambda: Pictures.of("p", "", ("a",), ("b", "c"), [[np.zeros((2, 2, 3))]]), "'p' needs a picture for each"),
        (lambda: Pictures.of("p", "", ("a",), ("b",), [[np.zeros((2, 2))]]), r"\(height, width, 3\), got \(2, 2\)"),
        (lambda: Pictures.of("p", "", ("a",), ("b",), [[np.full((2, 2, 3), np.nan)]]), "not finite"),
        (lambda: Pictures(title="p", caption="", rows=("a",), columns=("b",), images=(("AAAA",),)), "not a PNG file"),
        (lambda: Report(title="t", settings={"model": object()}), r"settings\['model'\] must be"),
        (lambda: HeatMap(title="h", caption="", rows=("a",), columns=("b",), values=((1, 2),)), "needs 1 values"),
        (lambda: HeatMap(title="h", caption="", rows=("a",), columns=("b",), values=()), "one row of values"),
        (
            lambda: Lines(
                title="", caption="", x_label="", y_label="", series=[Series(label="a", x=[-1], y=[1])], log_x=True
            ),
            "x of series 'a' must be >= 0 for log_x=True, got -1",
        ),
    ],
)
def test_wrong_fields_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the report is not JSON"),
        ("[" * 100_000, "the report is not JSON"),
        ("[1]", "not a hardy report"),
        ('{"format": "other"}', "not a hardy report"),
        ('{"format": "hardy-report", "version": 2}', "version 2, this hardy reads version 1; .*newer hardy"),
        ('{"format": "hardy-report", "version": "1"}', "version of the report must be an integer, got '1'"),
        (
            '{"format": "hardy-report", "version": 1, "title": "t", "settings": {"a": %s}}' % ("[" * 900 + "]" * 900),
            "nested too deeply|not JSON",
        ),
        ('{"format": "hardy-report", "version": 1}', "the report lacks the field 'title'"),
        ('{"format": "hardy-report", "version": 1, "title": "t", "row": []}', "unknown field 'row'; did you mean rows"),
        ('{"format": "hardy-report", "version": 1, "title": "t", "rows": 5}', "rows must be a list, got 5"),
        ('{"format": "hardy-report", "version": 1, "title": "t", "rows": [5]}', r"rows\[0\] must be an object"),
        ('{"format": "hardy-report", "version": 1, "title": "t", "figures": [{"kind": "bar"}]}', "did you mean bars"),
        ('{"format": "hardy-report", "version": 1, "title": "t", "figures": [{"kind": ["bars"]}]}', "kind"),
    ],
)
def test_damaged_foreign_and_newer_files_are_refused(tmp_path, text, message):
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Report.load(tmp_path)
    assert str(file) in str(caught.value)


def test_truncated_or_altered_files_never_crash_otherwise():
    text = example().to_json()
    rng = np.random.default_rng(0)
    for _ in range(300):
        at = int(rng.integers(len(text)))
        damaged = text[:at] if rng.random() < 0.3 else text[:at] + str(rng.choice(list('{}[]",:1ae'))) + text[at + 1 :]
        try:
            Report.from_json(damaged)
        except InputError:
            continue


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="no report at"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        Report.load(tmp_path)


# ---------------------------------------------------------------- reading


def test_select_and_value():
    report = example()
    assert [row.condition for row in report.select("perplexity")] == ["float32", "2 bits", "3 bits"]
    assert report.select(condition="chip") == report.rows[3:]
    assert report.value("perplexity", "2 bits") == math.inf
    with pytest.raises(InputError, match="no row has the metric 'perplexty'; did you mean perplexity"):
        report.value("perplexty", "2 bits")
    with pytest.raises(InputError, match="no row for perplexity has the condition 'float23'; did you mean float32"):
        report.value("perplexity", "float23")
    with pytest.raises(InputError, match="no row has the metric 'zzz'; there are perplexity, energy"):
        report.table("zzz")
    twice = example(rows=report.rows[:1] * 2)
    with pytest.raises(InputError, match="2 rows have the metric 'perplexity' and the condition 'float32'"):
        twice.value("perplexity", "float32")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5.31208, "5.312"),
        (3.156, "3.156"),
        (1234.4, "1234"),
        (123456.7, "123457"),
        (1.2e6, "1.2e+06"),
        (999_999.7, "1e+06"),
        (0.00001234, "1.234e-05"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (4_700_000, "4700000"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_shown_with_sensible_digits(value, shown):
    assert format_number(value) == shown


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (5.31208, 0.0213, "5.312 ± 0.021"),
        (1234.5, 120.3, "1234 ± 120"),
        (5.3, 0.0, "5.3 ± 0"),
        (5.3, None, "5.3"),
        (math.inf, math.nan, "∞ ± nan"),
        (5.3, 1e-9, "5.3 ± 1e-09"),
        (2.5e7, 3.0, "2.5e+07 ± 3"),
    ],
)
def test_spread_sets_the_digits_of_the_value(value, spread, shown):
    assert format_measurement(value, spread) == shown


def printed(report: Report, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    report.print(console)
    return console.export_text()


def test_terminal_shows_everything_in_80_columns():
    many = Row(
        metric="perplexity",
        condition="a condition with a long name that must be wrapped",
        value=7.1,
        spread=0.15,
        n=5,
        unit="nats",
        baseline="float32",
        details={"bits_per_weight": 3.25, "noise_strength": 0.05, "kept_layers": 4},
    )
    text = printed(example(rows=(*example().rows[:3], many)), 80)
    assert max(map(len, text.splitlines())) <= 80
    for piece in ("Does it survive?", "Yes, at 3 bits.", "∞ nats", "7.10 ± 0.15 nats", "3.25", "0.05", "5.312", "Note"):
        assert piece in text


def test_terminal_obeys_no_markup_and_no_control_characters():
    text = printed(example(title="[bold]t[/bold]\x1b[31m", rows=(Row(metric="[red]m", condition="[/x]", value=1),)), 80)
    assert "[bold]t[/bold]" in text
    assert "[red]m" in text
    assert "[/x]" in text
    assert "\x1b" not in text


# ---------------------------------------------------------------- pages


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def nasty_report() -> Report:
    return Report(
        title=NASTY,
        summary=(NASTY,),
        rows=(Row(metric=NASTY, condition=NASTY, value=1, unit=NASTY, baseline=NASTY, details={NASTY: NASTY}),),
        figures=(
            Lines(
                title=NASTY, caption=NASTY, x_label=NASTY, y_label=NASTY,
                series=(Series(label=NASTY, x=(1, 2), y=(1, 2)), Series(label="_hidden", x=(1,), y=(1,))),
            ),
            Bars(
                title=NASTY, caption=NASTY, y_label=NASTY, groups=(NASTY,),
                series=(BarSeries(label=NASTY, values=(1,)), BarSeries(label="困惑度", values=(1,))),
            ),
            HeatMap(title=NASTY, caption=NASTY, rows=(NASTY,), columns=(NASTY,), values=((1,),), unit=NASTY),
            Pictures.of(NASTY, NASTY, (NASTY,), (NASTY,), [[np.zeros((2, 2, 3))]]),
        ),
        settings={NASTY: {NASTY: [NASTY]}},
        notes=(NASTY,),
    )  # fmt: skip


def test_html_is_well_formed_and_complete():
    page = Page(example().to_html())
    assert page.open == []
    for piece in (
        "Does it survive?",
        "Yes, at 3 bits.",
        "5.910 ± 0.021",
        "float32 (5.312)",
        "∞",
        "0, 1, 2",
        "No drift.",
    ):
        assert piece in page.text
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [picture["role"] for picture in pictures] == ["img"] * 4
    assert pictures[0]["aria-label"] == "Perplexity against bits. Round-to-nearest breaks."
    assert sum(tag == "details" for tag, _ in page.tags) == 4


def test_html_ids_are_unique_and_every_reference_stays_inside_the_page():
    html = example(figures=FIGURES * 2).to_html()
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50
    targets = [value for _, attributes in page.tags for name, value in attributes.items() if name.endswith("href")]
    targets += re.findall(r"url\(([^)]*)\)", html)
    assert targets
    assert {target.removeprefix("#") for target in targets if not target.startswith("data:image/png")} <= set(ids)


def test_html_has_no_script_and_loads_nothing():
    wide = HeatMap(title="h", caption="", rows=["r"] * 60, columns=["c"] * 60, values=np.ones((60, 60)))
    html = example(figures=(*FIGURES, wide)).to_html()
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))


def test_text_of_users_is_shown_and_never_obeyed_in_html():
    page = Page(nasty_report().to_html())
    assert page.open == []
    harmless = (
        "html head meta title style body main h1 h2 h3 div p figure figcaption details summary table thead tbody tr "
        "th td dl dt dd ul li svg g defs path use text tspan rect clippath pattern image"
    )
    assert {tag for tag, _ in page.tags} <= set(harmless.split())
    assert page.text.count("""<script>alert("1")</script>""") >= 8
    assert "\x1b" not in page.text


def test_text_of_users_is_never_obeyed_in_markdown():
    text = nasty_report().to_markdown()
    assert "<script" not in text
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_table_holds_value_spread_unit_and_infinity():
    lines = example().to_markdown().splitlines()
    assert lines[0] == "# Does it survive?"
    assert "| metric | condition | value | unit | n | baseline | seeds | bits per weight | note | limit |" in lines
    assert "| perplexity | 2 bits | ∞ | nats | 1 | float32 (5.312) |  |  |  |  |" in lines
    assert "| perplexity | 3 bits | 5.910 ± 0.021 |  | 3 |  | 0, 1, 2 |  |  |  |" in lines


@pytest.mark.parametrize(
    "text", ["# no heading", "- no item", "1. no number", "*no* emphasis", "_no_ emphasis", "a\nb"]
)
def test_markdown_keeps_lines_of_users_plain(text):
    line = Report(title="t", summary=(text,)).to_markdown().splitlines()[2]
    assert "\\" in line or line == "a b"


def test_words_with_underscores_stay_readable_in_markdown():
    assert Report(title="bits_per_weight").to_markdown() == "# bits_per_weight\n"


def test_the_same_report_gives_the_same_bytes_in_every_process():
    report = example()
    here = (report.to_json(), report.to_markdown(), report.to_html())
    assert here == (report.to_json(), report.to_markdown(), report.to_html())
    assert here[2] == Report.from_json(here[0]).to_html()
    code = (
        "import hashlib, sys; from hardy.report import Report; import matplotlib;"
        "matplotlib.rcParams['xtick.major.size'] = 9; matplotlib.rcParams['svg.fonttype'] = 'none';"
        "r = Report.from_json(sys.stdin.buffer.read().decode());"
        "sys.stdout.buffer.write((r.to_json() + r.to_markdown() + r.to_html()).encode());"
        "assert matplotlib.rcParams['xtick.major.size'] == 9"
    )
    there = subprocess.run([sys.executable, "-c", code], input=here[0].encode(), capture_output=True, check=True)
    assert there.stdout.decode() == "".join(here)


def test_empty_report_has_pages():
    report = Report(title="Nothing yet")
    assert Page(report.to_html()).open == []
    assert report.to_markdown() == "# Nothing yet\n"
    assert "Nothing yet" in printed(report, 80)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_any_text_can_be_shown(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    report = Report(title=text, rows=(Row(metric=text, condition=text, value=1.0),), notes=(text,))
    assert Page(report.to_html()).open == []
    printed(report, 60)


# ---------------------------------------------------------------- figures


def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_data_of_figures_is_a_plain_table():
    columns, points = LINES.data()
    assert columns == ("series", "bits", "perplexity", "spread")
    assert points[0] == ("trit-planes", 2.0, 9.8, 0.5)
    assert points[3] == ("round to nearest", 2.0, math.inf, None)
    assert len(points) == 8
    columns, groups = BARS.data()
    assert columns == ("group", "most fragile", "most fragile: spread", "random")
    assert groups[0] == ("none", 31.0, 2.0, 31.0)
    assert HEAT_MAP.data() == (
        ("rise of perplexity", "q", "k", "v"),
        (("layer 0", 0.1, None, math.inf), ("layer 1", None, 0.0, 3.0)),
    )


def test_infinity_is_marked_at_the_top_and_the_impossible_at_the_bottom():
    panel = axes()
    LINES.draw(panel)
    assert sorted(text.get_text() for text in panel.texts) == ["∞", "≤ 0"]
    low, high = panel.get_ylim()
    assert 0 < low < 5.3
    assert 44 < high < 1000
    points = [line for line in panel.lines if line.get_label() == "round to nearest"][0]  # noqa: RUF015
    drawn = list(points.get_ydata())
    assert 44 < drawn[0] < high  # infinity, above all finite values
    assert drawn[1] == 44
    assert math.isnan(drawn[2])


def test_controls_are_grey_and_series_are_told_apart():
    panel = axes()
    LINES.draw(panel)
    color = {line.get_label(): line.get_color() for line in panel.lines}
    assert color["control"] == "#6e7781"
    assert len({color["trit-planes"], color["round to nearest"], color["control"]}) == 3
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        "trit-planes",
        "round to nearest",
        "control",
    ]


def test_dollars_and_leading_underscores_are_ordinary_letters():
    names = ("$5^", "_private")
    series = tuple(Series(label=name, x=(1,), y=(1,)) for name in names)
    figure = Lines(title="$^", caption="", x_label="$^$", y_label="_", series=series)
    panel = axes()
    figure.draw(panel)
    legend = panel.get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == list(names)
    assert "<svg" in Report(title="t", figures=(figure,)).to_html()  # "$^$" is no valid mathematics


def test_bars_show_infinity_both_ways():
    panel = axes()
    BARS.draw(panel)
    assert sorted(text.get_text() for text in panel.texts) == ["-∞", "∞"]
    assert len(panel.patches) == 4
    low, high = panel.get_ylim()
    assert all(low <= patch.get_y() + patch.get_height() <= high for patch in panel.patches)


def test_heat_map_writes_its_values_with_the_first_row_on_top():
    panel = axes()
    HEAT_MAP.draw(panel)
    assert [text.get_text() for text in panel.texts] == ["0.1", "", "∞", "", "0", "3"]
    assert panel.get_ylim() == (2, 0)


def test_pictures_come_back_as_they_went_in() -> None:
    random = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    figure = Pictures.of("p", "", ("a",), ("b",), [[random / 255]])
    restored = Report.from_json(example(figures=(figure,)).to_json()).figures[0]
    assert isinstance(restored, Pictures)
    assert np.array_equal(restored.arrays()[0][0], random)
    assert restored.data() == (("pixels", "b"), (("a", "7 x 5"),))


def test_zero_is_drawn_on_a_logarithmic_x_axis():
    panel = axes()
    series = Series(label="a", x=(0, 0.01, 0.1), y=(1, 2, 3))
    Lines(title="", caption="", x_label="noise", y_label="", series=(series,), log_x=True).draw(panel)
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0", "0.01", "0.1"]
    assert panel.get_xlim()[0] <= 0


@pytest.mark.parametrize(
    "y",
    [
        (math.nan, math.nan),
        (math.inf, math.inf),
        (0, 0),
        (5e-324, 1.7e308),
        (-1e308, 1e308),
        (7, 7),
        (5.312, 5.3121),
        (5.3, 1e303),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_extreme_values_are_drawn_without_a_warning(y, log):
    series = Series(label="a", x=(1, 2), y=y, spread=(0.1, math.inf))
    lines = Lines(title="", caption="", x_label="", y_label="", series=(series,), log_y=log, log_x=log)
    bars = Bars(
        title="", caption="", y_label="", groups=("a", "b"), series=(BarSeries(label="a", values=y),), log_y=log
    )
    heat_map = HeatMap(title="", caption="", rows=("a",), columns=("b", "c"), values=(y,), log=log)
    assert Report(title="t", figures=(lines, bars, heat_map)).to_html().count("<svg") == 3


def test_save_png(tmp_path):
    for i, figure in enumerate(FIGURES):
        path = save_png(figure, tmp_path / f"{i}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.read_bytes() == save_png(figure, tmp_path / "again.png").read_bytes()


# ---------------------------------------------------------------- saving


def test_save_and_load(tmp_path):
    report = example()
    paths = report.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert paths[0].read_text(encoding="utf-8") == report.to_json()
    assert paths[2].read_text(encoding="utf-8") == report.to_html()
    assert repr(Report.load(paths[0].parent)) == repr(Report.load(paths[0])) == repr(report)
    with pytest.raises(InputError, match="is a file; a report needs a folder"):
        report.save(paths[0])


def test_a_failing_write_leaves_the_last_good_files(tmp_path, monkeypatch):
    example().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(self, *_, **__):
        with open(self, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        example(title="Another").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failing_drawing_replaces_nothing(tmp_path, monkeypatch):
    example().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Report, "to_html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        example(title="Another").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- cost of import


def test_report_imports_neither_torch_nor_matplotlib():
    folder = Path(report_module.__file__).parent
    for name in ("report", "figures", "tables", "fields", "display", "html", "markdown"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in imported:
                assert module.split(".")[0] not in ("torch", "matplotlib", "transformers"), (name, module)
