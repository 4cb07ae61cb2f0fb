"""The standard library as a recipe's data: tokenizer, training windows, and figures on the held-out modules."""

import dataclasses
import lzma
import platform
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hardy.core.rng import derive, generator
from hardy.evaluate.language import bits_per_byte, encode, token_losses
from hardy.reading import reading
from hardy.zoo.recipe import Recipe
from hardy.zoo.text import held_out_text, training_documents
from hardy.zoo.tokenizer import END_OF_TEXT, is_stored, train_tokenizer


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All training text as rows of token ids, (tokens,): as it is, and with the modules outweighing the tests."""

    everything: torch.Tensor
    focused: torch.Tensor
    facts: dict[str, int]


class LibraryText:
    """Python source and its language reference: `hardy.zoo.recipe.Data` for the recipes of language models.

    Args:
        recipe: says vocabulary, context, batch, seed and focus.
        out: the tokenizer is kept there, and read from there by a resumed run.
    """

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._recipe = recipe
        self.tokenizer, self._corpus = corpus_of(recipe, out)
        self._validation = encode(self.tokenizer, held_out_text("calibration"))

    def batch(self, step: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and the tokens to predict, both (batch, context)."""
        windows = windows_of(self._corpus, self._recipe, step, steps)
        return windows[:, :-1], windows[:, 1:]

    def validation_loss(self, model: PreTrainedModel) -> float:
        """Nats per token on the calibration modules."""
        return token_losses(model, self._validation, window=self._recipe.context).double().mean().item()

    def facts(self) -> dict[str, Any]:
        """What was trained on, for the card."""
        return {
            "source": f"standard library of Python {platform.python_version()}, without the held-out modules and "
            "their tests, site-packages and encodings",
            **self._corpus.facts,
        }

    def held_out(self, model: PreTrainedModel) -> dict[str, Any]:
        """Bits per byte on the evaluation modules, beside those of xz."""
        text, window = held_out_text("evaluation"), self._recipe.context
        size = len(text.encode())
        xz = 8 * len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)) / size
        bits = bits_per_byte(model, self.tokenizer, text, window=window, stride=window // 2)
        return {"bytes": size, "bits_per_byte": bits, "bits_per_byte_xz_9e": xz, "below_xz": 1 - bits / xz}


def corpus_of(recipe: Recipe, out: Path) -> tuple[PreTrainedTokenizerFast, Corpus]:
    """The tokenizer, trained now or found in `out`, and the training text encoded by it."""
    library, tests = training_documents()
    if is_stored(out):
        with reading(out / "tokenizer.json"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    else:
        tokenizer = train_tokenizer([*library, *tests], recipe.vocab_size, recipe.context)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)

    def ids(documents: list[str]) -> torch.Tensor:
        encoded = tokenizer.backend_tokenizer.encode_batch(documents)
        return torch.cat([torch.tensor([end, *document.ids], dtype=torch.int32) for document in encoded])

    modules, checks = ids(library), ids(tests)
    facts = {
        "library_bytes": sum(len(text.encode()) for text in library),
        "library_tokens": len(modules),
        "tests_bytes": sum(len(text.encode()) for text in tests),
        "tests_tokens": len(checks),
    }
    everything = torch.cat([modules, checks])
    return tokenizer, Corpus(everything, torch.cat([*[modules] * recipe.focus_weight, checks]), facts)


def windows_of(corpus: Corpus, recipe: Recipe, step: int, steps: int) -> torch.Tensor:
    """The windows of `step`, (batch, context + 1): every pass over the data is shuffled and shifted anew."""
    begins = round(recipe.focus * steps)
    phase, tokens = ("everything", corpus.everything) if step < begins else ("focused", corpus.focused)
    rows = (len(tokens) - 1) // recipe.context - 1  # one spare window, for the shift
    first = (step if step < begins else step - begins) * recipe.batch
    windows = []
    for index in range(first, first + recipe.batch):
        epoch, row = divmod(index, rows)
        order = torch.randperm(rows, generator=generator(recipe.seed, phase, "order", epoch))
        shift = derive(recipe.seed, phase, "shift", epoch) % recipe.context
        begin = int(order[row]) * recipe.context + shift
        windows.append(tokens[begin : begin + recipe.context + 1])
    return torch.stack(windows).long()
