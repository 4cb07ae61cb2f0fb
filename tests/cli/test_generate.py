"""`hardy generate` and `hardy chat`, and that every command that takes a model takes a GGUF file."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

import hardy
from hardy.cli.main import main
from hardy.quant import Pack, TritPlanes

Run = Callable[..., tuple[int, str, str]]
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}it: {% endif %}"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process with an input that is piped in: exit code, output, errors."""

    def command(*arguments: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hardy", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_a_text_is_continued_from_an_option_a_file_or_a_pipe(run: Run, tmp_path: Path) -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama", dtype="auto")
    expected = hardy.zoo.generate(model.float(), tokenizer, "def add(first, second):", max_new_tokens=12)
    options = ("tiny-llama", "--max-new-tokens", "12", "--head-bits", "0", "--dtype", "float32")
    code, out, err = run("generate", *options, "--prompt", "def add(first, second):")
    assert (code, out) == (0, expected + "\n"), err
    assert "decoding step by step, head float32" in err
    assert "12 written in" in err
    (tmp_path / "prompt.txt").write_text("def add(first, second):")
    assert run("generate", *options, "--file", str(tmp_path / "prompt.txt"))[1] == out
    assert run("generate", *options, given="def add(first, second):")[1] == out
    sampled = (*options, "--temperature", "1", "--top-p", "0.9", "--prompt", "import ")
    assert run("generate", *sampled, "--seed", "1")[1] == run("generate", *sampled, "--seed", "1")[1]


def test_a_packed_folder_writes(run: Run, tmp_path: Path) -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    TritPlanes(planes=2).apply(model)
    Pack().apply(model)
    hardy.save(model, tmp_path / "packed", tokenizer=tokenizer)
    code, out, err = run("generate", str(tmp_path / "packed"), "--prompt", "import ", "--max-new-tokens", "5")
    assert code == 0, err
    assert out.strip()
    assert "packed: 4.7 M parameters, 3.9 M of them in few bits, float32 (" in err


def test_a_chat_goes_on_and_begins_anew(run: Run, tmp_path: Path) -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    tokenizer.chat_template = CHAT
    model.save_pretrained(tmp_path / "chatty")
    tokenizer.save_pretrained(tmp_path / "chatty")
    options = ("chat", str(tmp_path / "chatty"), "--max-new-tokens", "4", "--temperature", "0")
    code, out, err = run(*options, given="hello\n\nhello\n/new\nhello\n/exit\nnever\n")
    assert code == 0, err
    timings = [int(line.split()[0]) for line in err.splitlines() if "tokens read" in line]
    assert len(timings) == 3
    assert timings[1] < timings[0] + 12  # what was said before is not read again
    first, *_, last = [line for line in out.splitlines() if line.strip()]
    assert first == last
    code, out, err = run(*options, "--context", "24", given="hello " * 30 + "\n")
    assert code == 0
    assert "The context of 24 tokens is full: /new begins anew." in err
    code, _, err = run("chat", "tiny-llama", given="hello\n")
    assert code == 2
    assert "tiny-llama has no chat template" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--file", "b"], "give --prompt or --file, not both"),
        (["--prompt", "a", "--top-p", "1.5"], "top_p must be a finite number above 0 and of at most 1, got 1.5"),
        (["--prompt", "a", "--temperature", "nan"], "temperature must be a finite number"),
        (["--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens must be an integer of at least 1, got 0"),
        (["--prompt", "a", "--head-bits", "3"], "head_bits must be 0, 4 or 8"),
        (["--prompt", "a", "--threads", "0"], "threads must be an integer of at least 1"),
        (["--prompt", ""], "the prompt is empty"),
        (["--file", "nowhere.txt"], "nowhere.txt does not exist"),
    ],
)
def test_bad_options_are_found_before_a_model_is_loaded(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run("generate", "tiny-llama", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_a_prompt_that_does_not_fit_is_refused(run: Run) -> None:
    code, _, err = run("generate", "tiny-llama", "--prompt", "a b c", "--context", "16", "--max-new-tokens", "16")
    assert code == 2
    assert "exceed the context of 16" in err
    code, _, err = run("generate", "tiny-llama", "--prompt", "a", "--context", "100000")
    assert code == 2
    assert "capacity must be at most" in err


SMALL = ("--tokens", "64", "--window", "64")
COMMANDS = {
    "generate": ("generate", "{model}", "--prompt", "def", "--max-new-tokens", "3"),
    "quantize": ("quantize", "{model}", "{out}", "--bits", "4", "--calibration", "none", "--group-size", "16", *SMALL),
    "locate": ("locate", "{model}", "--group-size", "16", *SMALL),
    "simulate": ("simulate", "{model}", "--seeds", "1", *SMALL),
    "repair": ("repair", "{model}", "--with", "redundancy", "--seeds", "1", *SMALL),
    "study": (
        "study", "--model", "{model}", "--out", "{out}", "--seeds", "1", "--bits", "4", "--additive", "0.05",
        "--proportional", "", "--keep", "0.5", "--group-size", "16", *SMALL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore")
def test_every_command_takes_a_gguf_file(command: str, run: Run, micro_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from gguf_files import write_gguf

    write_gguf(micro_llama, tmp_path / "model.gguf")
    names = {"model": str(tmp_path / "model.gguf"), "out": str(tmp_path / "out")}
    code, _, err = run(*(word.format(**names) for word in COMMANDS[command]))
    assert code == 0, err
