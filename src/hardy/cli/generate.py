"""`hardy generate` and `hardy chat`: text from a language model, packed or not, as it is written."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy import checks
from hardy.cli.interrupts import interruptible
from hardy.cli.options import Dtype, Model
from hardy.errors import InputError

if TYPE_CHECKING:
    from hardy.quant.writing import Writer

NewTokens = Annotated[int, typer.Option(help="At most so many new tokens.")]
Temperature = Annotated[float, typer.Option(help="0 for the likeliest token each time, else samples.")]
TopP = Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability in all.")]
Seed = Annotated[int, typer.Option(help="Of the samples.")]
Threads = Annotated[int | None, typer.Option(help="By default as many as there are cores.")]
Context = Annotated[
    int | None, typer.Option(help="Tokens that there is room for; by default the model's context, at most 2048.")
]
HeadBits = Annotated[int, typer.Option(help="A dense head is read at 8 or 4 bits; 0 reads it as it is.")]


def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="Text to continue; by default what is piped in.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file to continue, instead.")] = None,
    max_new_tokens: NewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    threads: Threads = None,
    context: Context = None,
    head_bits: HeadBits = 8,
    dtype: Dtype = "auto",
) -> None:
    """Continue a text with a language model; tokens per second go to the error stream."""
    if (prompt is not None) + (file is not None) > 1:
        raise InputError("give --prompt or --file, not both")
    if prompt is None and file is None and sys.stdin.isatty():
        raise InputError("give --prompt TEXT or --file FILE, or pipe a text in")
    _check(max_new_tokens, temperature, top_p, threads, context, head_bits)
    if file is not None:
        from hardy.zoo.text import read_text

        prompt = read_text(str(file))
    text = sys.stdin.read() if prompt is None else prompt
    if not text:
        raise InputError("the prompt is empty")
    writer = _writer(model, threads, context, head_bits, dtype)
    ids = writer.tokenizer(text)["input_ids"]
    with interruptible(None):
        _print(writer, ids, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    threads: Threads = None,
    context: Context = None,
    head_bits: HeadBits = 8,
    dtype: Dtype = "auto",
) -> None:
    """Talk to a model that has a chat template: a line is a message, /new begins anew, /exit or end of input ends."""
    _check(max_new_tokens, temperature, top_p, threads, context, head_bits)
    writer = _writer(model, threads, context, head_bits, dtype)
    tokenizer: Any = writer.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{model} has no chat template: it was not made to talk; hardy generate continues a text")
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages, turn = list(opening), 0
    with interruptible(None):
        while (line := _line()) not in (None, "/exit"):
            if line == "/new":
                messages = list(opening)
                continue
            messages.append({"role": "user", "content": line})
            shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(shown, add_special_tokens=False)["input_ids"]
            room = writer.context - len(ids)
            if room < 1:
                typer.echo(f"The context of {writer.context} tokens is full: /new begins anew.", err=True)
                messages.pop()
                continue
            said = _print(
                writer, ids, max_new_tokens=min(max_new_tokens, room), temperature=temperature, top_p=top_p,
                seed=seed + turn,
            )  # fmt: skip
            messages.append({"role": "assistant", "content": said})
            turn += 1


def _check(
    max_new_tokens: int, temperature: float, top_p: float, threads: int | None, context: int | None, head_bits: int
) -> None:
    """All that can be wrong before a model is loaded."""
    from hardy.quant.writing import check_sampling

    check_sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    checks.one_of("head_bits", head_bits, (0, 4, 8))
    if threads is not None:
        checks.integer("threads", threads, at_least=1)
    if context is not None:
        checks.integer("context", context, at_least=2)


def _writer(model: str, threads: int | None, context: int | None, head_bits: int, dtype: str | None) -> "Writer":
    import torch

    from hardy.quant.writing import Writer
    from hardy.zoo import Subject

    if threads is not None:
        torch.set_num_threads(threads)
    subject = Subject.of(model, dtype=dtype, device="cpu")  # what writes is compiled for it
    writer = Writer(subject.model, subject.tokenizer, context=context, head_bits=head_bits or None)
    typer.echo(f"decoding {writer.how}", err=True)
    return writer


def _print(writer: "Writer", ids: list[int], **options: Any) -> str:
    """Print what follows as it comes, then what it took; the whole text."""
    pieces: list[str] = []
    for piece in writer.text(ids, **options):
        pieces.append(piece)
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    typer.echo("")
    typer.echo(str(writer.timing), err=True)
    return "".join(pieces)


def _line() -> str | None:
    """The next message; None at the end of the input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        if line:
            return line
