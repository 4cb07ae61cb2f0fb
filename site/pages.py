"""Pages that are made anew at every build: API, commands, all messages, and what lies beside docs.

Run by mkdocs (gen-files); `commands` and `messages` are tested without it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hardy"
REFERENCE = """# hardy.{room}

::: hardy.{room}
    options:
      show_root_heading: false
"""


def commands() -> str:
    """Every command with its arguments and options, from typer."""
    import click
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from hardy.cli.main import app

    command = get_command(app)
    whole_sentences(command)
    context = click.Context(command, info_name="hardy")
    text = get_docs_for_click(obj=command, ctx=context, name="hardy", title="Commands")
    # "<" of a metavar would begin a tag
    return re.sub(r"<(?=[A-Z])", "&lt;", text)


def whole_sentences(command: Any) -> None:
    """Have lists of commands say what a command does in full; click cuts that down to 45 characters."""
    for each in getattr(command, "commands", {}).values():
        each.short_help = (each.help or "").partition("\n\n")[0].replace("\n", " ")
        whole_sentences(each)


def messages() -> Iterator[tuple[str, str]]:
    """The module and the text of every `InputError` in the code, with "…" for what is filled in."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("hardy", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called in ("InputError", "MissingToolError") and node.args:
                text = re.sub("…+", "…", template(node.args[0]))
                if re.search(r"[a-z]{3}", text):
                    yield module, text


def template(node: ast.expr) -> str:
    """The text of a literal, with "…" for expressions in it; a known install hint is written out."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_part(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return "…"


def _part(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    call = value.value if isinstance(value, ast.FormattedValue) else None
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "install":
        from hardy.errors import install

        return install(template(call.args[0]))
    return "…"


def all_messages() -> str:
    """A page of them, by room."""
    lines = ["# All messages", "", "Every message of an `InputError`; `…` stands for a name or a value.", ""]
    room = ""
    for module, text in messages():
        if (new := ".".join(module.split(".")[:2])) != room:
            room = new
            lines += ["", f"## {room}", ""]
        lines.append(f"- <code>{text.replace('&', '&amp;').replace('<', '&lt;')}</code> ({module})")
    return "\n".join(lines) + "\n"


def contributing() -> str:
    """CONTRIBUTING.md beside the pages of docs/develop; its links into the source become names of files."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/develop/", "](")
    return re.sub(r"\[(`[^`]+`)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def build() -> None:
    import mkdocs_gen_files

    for room in sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")):
        if room != "cli":
            write(mkdocs_gen_files, f"reference/{room}.md", REFERENCE.format(room=room))
    write(mkdocs_gen_files, "reference/hardy.md", REFERENCE.format(room="").replace("hardy.\n", "hardy\n"))
    write(mkdocs_gen_files, "commands.md", commands())
    write(mkdocs_gen_files, "errors/messages.md", all_messages())
    write(mkdocs_gen_files, "develop/contributing.md", contributing())
    write(mkdocs_gen_files, "develop/changes.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def write(files, name: str, text: str) -> None:
    with files.open(name, "w") as page:
        page.write(text)


if __name__ == "<run_path>":  # how gen-files runs it
    build()
