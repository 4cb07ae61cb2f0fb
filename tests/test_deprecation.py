import pytest

import hardy
from hardy.deprecation import renamed
from hardy.errors import InputError


@renamed(seeds="n_seeds")
def draw(model: str, *, n_seeds: int = 3) -> tuple[str, int]:
    """Draws."""
    return model, n_seeds


def test_an_old_name_works_with_a_warning_where_it_is_used() -> None:
    assert draw("m", n_seeds=2) == ("m", 2)
    with pytest.warns(DeprecationWarning, match="seeds of draw is now called n_seeds; the old name goes") as caught:
        assert draw("m", seeds=4) == ("m", 4)
    assert caught[0].filename == __file__
    with pytest.raises(InputError, match="draw was given n_seeds and, under its old name seeds, again"):
        draw("m", seeds=4, n_seeds=4)
    assert (draw.__name__, draw.__doc__) == ("draw", "Draws.")


def test_generate_still_takes_tokens() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    with pytest.warns(DeprecationWarning, match="tokens of generate is now called max_new_tokens"):
        old = hardy.zoo.generate(model, tokenizer, "def ", tokens=3)
    assert old == hardy.zoo.generate(model, tokenizer, "def ", max_new_tokens=3)
