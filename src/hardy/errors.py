"""The one error of hardy that is the caller's to mend; the command line prints it as one line and exits with 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, file or model that cannot be used. The message names it, its value, and what is accepted."""


def near_misses(name: str, known: Iterable[str], most: int = 3) -> str:
    """ "; did you mean a, b?" for the members of `known` closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
