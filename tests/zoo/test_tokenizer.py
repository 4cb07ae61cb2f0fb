import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.zoo.tokenizer import END_OF_TEXT, train_tokenizer

DOCUMENTS = ["def add(a, b):\n    return a + b\n", "for i in range(10):\n    print(i)\n"] * 3
TOKENIZER = train_tokenizer(DOCUMENTS, vocab_size=280, max_length=64)


@given(st.text())
def test_any_text_comes_back_exactly(text: str) -> None:
    text = text.replace(END_OF_TEXT, "")
    ids = TOKENIZER(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_vocabulary_is_as_large_as_asked_and_frequent_words_are_short() -> None:
    assert len(TOKENIZER) == 280
    assert len(TOKENIZER.tokenize("return a + b")) < len("return a + b")
    assert TOKENIZER.bos_token_id == TOKENIZER.eos_token_id == 0


def test_too_little_text_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="5000"):
        train_tokenizer(["short"], vocab_size=5000, max_length=64)
