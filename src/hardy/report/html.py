"""A report as one HTML page that opens offline: no script, no external file, light and dark."""

from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from hardy.errors import printable
from hardy.report.display import format_cell
from hardy.report.figures import Figure, HeatMap
from hardy.report.pictures import Pictures
from hardy.report.tables import PageTable, data_table, row_table

if TYPE_CHECKING:
    from hardy.report import Report


def page(report: "Report") -> str:
    """The whole page; the same report gives the same bytes."""
    figures = [_drawn(figure, number) for number, figure in enumerate(report.figures, 1)]
    return template("page.html").render(report=report, figures=figures, results=row_table(report.rows))


@cache
def template(name: str) -> Template:
    """A template of this folder, in which all text is escaped."""
    environment = Environment(
        loader=PackageLoader("hardy.report", "."),
        autoescape=True,  # whatever users write is shown, never obeyed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"printable": lambda value: printable(str(value)), "cell": format_cell}
    return environment.get_template(name)


def _drawn(figure: Figure, number: int) -> tuple[Figure, PageTable, Markup, bool]:
    """A figure, its data, its drawing, and whether it takes the whole width."""
    from hardy.report import rendering  # imports matplotlib

    wide = isinstance(figure, Pictures) or (isinstance(figure, HeatMap) and len(figure.columns) > 20)
    return figure, data_table(figure), Markup(rendering.to_svg(figure, f"figure{number}-")), wide
