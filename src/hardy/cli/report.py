"""`hardy report`: look at a report again."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Reports that were made before.", no_args_is_help=True)

Where = Annotated[Path, typer.Argument(help="Folder of a study, or a report.json.")]


@app.command("open")
def open_report(where: Where = Path("hardy-study")) -> None:
    """Open the HTML page in the browser, drawing it anew from report.json."""
    from hardy.errors import InputError
    from hardy.report import Report

    report = Report.load(where)
    folder = where if where.is_dir() else where.parent
    page = next(path for path in report.save(folder) if path.suffix == ".html")
    if typer.launch(page.resolve().as_uri()) != 0:
        raise InputError(f"no browser could be started; open {page} yourself")
    typer.echo(str(page))


@app.command("show")
def show_report(where: Where = Path("hardy-study")) -> None:
    """Print the report in the terminal."""
    from hardy.report import Report

    Report.load(where).print()


Folder = Annotated[Path, typer.Argument(help="Folder whose reports are wanted, those of its folders included.")]


@app.command("list")
def list_reports(folder: Folder = Path(".")) -> None:
    """List the reports below a folder, the newest first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hardy.errors import printable
    from hardy.report import index

    table = Table("folder", "report", "written")
    for entry in index.entries(folder):
        said = f"{entry.title}: cannot be read: {entry.problem}" if entry.problem else entry.title
        table.add_row(*(Text(printable(str(cell))) for cell in (entry.folder, said, entry.date)))
    Console().print(table)


@app.command("index")
def index_reports(folder: Folder = Path(".")) -> None:
    """Write a page to FOLDER/index.html that leads to every report below the folder."""
    from hardy.report import index

    typer.echo(str(index.save(folder)))
