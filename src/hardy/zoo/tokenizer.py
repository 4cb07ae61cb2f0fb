"""Byte-level BPE trained on a list of documents: any text round-trips exactly, nothing is unknown."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hardy.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""Separates documents in training; begins and ends a sequence."""


def train_tokenizer(documents: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `vocab_size` tokens; `max_length` is the context the model will be trained for.

    Raises:
        InputError: the documents do not hold enough different pairs for `vocab_size` tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise InputError(f"the text gives {tokenizer.get_vocab_size()} tokens, not the vocab_size of {vocab_size}")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def is_stored(folder: Path) -> bool:
    """Whether `folder` has a tokenizer, both files of it."""
    return all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
