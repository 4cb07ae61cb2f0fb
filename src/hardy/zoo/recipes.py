"""The recipes of all zoo models."""

from hardy.errors import InputError, near_misses
from hardy.zoo import tiny_llama, tiny_mamba, tiny_moe, tiny_reasoner
from hardy.zoo.recipe import Recipe

RECIPES = {
    recipe.name: recipe for recipe in (tiny_llama.recipe, tiny_moe.recipe, tiny_mamba.recipe, tiny_reasoner.recipe)
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe for {name!r}{near_misses(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
