"""The heat map of a survival study: a cell for every site."""

import torch
from models import build, build_encoder
from torch import nn

from hardy.core import Ranking, select
from hardy.studies.survival_report import heat_map


def cells(model: nn.Module, where: object = "linear,!head,!router") -> dict[tuple[str, str], float]:
    """What is drawn: (row, column) -> score. Scores are the numbers of the sites."""
    sites = select(model, where)
    scores = {site.name: float(i) for i, site in enumerate(sites)}
    ranking = Ranking(scores=scores, meaning="damage", unit="", by="test")
    figure = heat_map(ranking, sites)
    drawn = {
        (row, column): value
        for row, values in zip(figure.rows, figure.values, strict=True)
        for column, value in zip(figure.columns, values, strict=True)
        if value is not None
    }
    assert sorted(drawn.values()) == [float(i) for i, site in enumerate(sites) if site.layer is not None]
    return drawn


def test_layers_by_roles() -> None:
    drawn = cells(build("llama"))
    assert list(drawn)[:7] == [
        ("layer 0", f"{block}.{part}")
        for block, parts in (("attention", "qkvo"), ("mlp", ("gate", "up", "down")))
        for part in parts
    ]


def test_both_stacks_and_both_attentions_of_an_encoder_decoder() -> None:
    rows = list(dict.fromkeys(row for row, _ in cells(build_encoder("t5"))))
    assert rows == ["encoder layer 0", "encoder layer 1", "decoder layer 0", "decoder layer 1"]


def test_every_expert_has_a_column() -> None:
    expert = lambda: nn.ModuleDict({"w1": nn.Linear(2, 2), "w2": nn.Linear(2, 2)})  # noqa: E731
    layer = lambda: nn.ModuleDict({"mlp": nn.ModuleDict({"experts": nn.ModuleList(expert() for _ in range(12))})})  # noqa: E731
    columns = list(dict.fromkeys(column for _, column in cells(nn.ModuleDict({"layers": nn.ModuleList([layer()])}))))
    assert columns == [f"experts.{part}[{i}]" for part in ("gate", "down") for i in range(12)]


def test_what_has_no_role_or_the_same_one_is_told_apart_by_its_name() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.ModuleDict({"out": nn.Linear(2, 2)}), nn.ModuleDict({"out": nn.Linear(2, 2)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    drawn = cells(nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()])}), "linear")
    assert list(drawn) == [(f"layer {layer}", f"{part}.out") for layer in (0, 1) for part in ("one", "two")]
