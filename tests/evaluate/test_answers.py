from pathlib import Path

import pytest
import torch

import hardy
from hardy.errors import InputError
from hardy.evaluate.answers import Answer, greedy_answers, last_number

PROMPTS = ["def add", "return first + second\n", "x", "    return"]


def alone(model, tokenizer, prompt: str, longest: int) -> Answer:
    """The slow way: one prompt, the whole sequence anew for every token, no padding and no cache."""
    ids = list(tokenizer(prompt)["input_ids"])
    written: list[int] = []
    while len(written) < longest:
        with torch.inference_mode():
            token = int(model(torch.tensor([ids + written]), use_cache=False).logits[0, -1].argmax())
        written.append(token)
        if token == tokenizer.eos_token_id:
            return Answer(tokenizer.decode(written[:-1]), len(written), True)
    return Answer(tokenizer.decode(written), len(written), False)


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_answers_of_a_batch_are_those_of_each_prompt_alone(micro_llama: Path, batch: int) -> None:
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    found = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=9, batch=batch)
    assert found == [alone(model, tokenizer, prompt, 9) for prompt in PROMPTS]


def test_an_answer_that_ends_is_cut_there_and_counts_its_end() -> None:
    model, tokenizer = hardy.zoo.load("tiny-reasoner")
    prompts = ["\nD3+5-2:", "\nT3+5-2:", "\nT3+5-2*4+9:"]
    found = greedy_answers(model, tokenizer, prompts, max_new_tokens=30)
    assert found == [alone(model, tokenizer, prompt, 30) for prompt in prompts]
    assert found[1].text == "3+5=8-2=6;6"
    assert [answer.tokens for answer in found[:2]] == [2, 12]
    assert all(answer.ended for answer in found)
    cut = greedy_answers(model, tokenizer, prompts[1:2], max_new_tokens=5)
    assert cut == [Answer("3+5=8", 5, False)]


def test_the_last_number_of_a_text() -> None:
    assert last_number("7+8=5*3=5;-12.50 apples.") == "-12.50"
    assert last_number("so the answer is 42.") == "42"
    assert last_number("none at all") is None


def test_what_cannot_be_answered_is_refused(micro_llama: Path) -> None:
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    for prompts, longest, message in (
        ([], 5, "there are no prompts"),
        ([""], 5, "the prompts are empty"),
        (["x"], 0, "max_new_tokens and batch must be at least 1"),
        (["x" * 60], 50, "exceed the model's context"),
    ):
        with pytest.raises(InputError, match=message):
            greedy_answers(model, tokenizer, prompts, max_new_tokens=longest)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        greedy_answers(model, tokenizer, ["x"], max_new_tokens=5)
