"""The model that reasons: is it what its card says, and does it reason on problems it never saw?"""

import hardy
from hardy.zoo.arithmetic import OPERATIONS, accuracies, held_out_problems
from hardy.zoo.loading import WEIGHTS


def test_it_is_small_and_its_card_is_of_this_training() -> None:
    model, tokenizer = hardy.zoo.load("tiny-reasoner")
    card = hardy.zoo.card("tiny-reasoner")
    assert sum(path.stat().st_size for path in (WEIGHTS / "tiny-reasoner").iterdir()) <= 3_000_000
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert len(tokenizer) == model.config.vocab_size
    assert model.config.num_hidden_layers % 3 == 0
    assert card["data"]["tokens_seen"] == card["recipe"]["steps"] * card["recipe"]["batch"] * card["recipe"]["context"]
    assert card["loss_curve"][-1][0] == card["recipe"]["steps"]
    assert card["loss_curve"][-1][2] < card["loss_curve"][0][2]


def test_written_steps_are_right_where_an_answer_at_once_is_not() -> None:
    model, tokenizer = hardy.zoo.load("tiny-reasoner")
    found = accuracies(model, tokenizer, held_out_problems(40, seed=1))
    card = hardy.zoo.card("tiny-reasoner")["held_out"]
    for way in ("direct", "steps", "examples_direct", "examples_steps"):
        assert abs(found[way]["all"] - card[way]["all"]) < 0.12  # 160 problems: three standard errors
    longest = str(OPERATIONS[-1])
    assert found["steps"]["all"] > 0.95
    assert found["direct"]["all"] > 1.3 * found["guess_from_the_last_operation"]
    assert found["steps"][longest] > found["direct"][longest] + 0.2
