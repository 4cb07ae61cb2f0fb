"""The one error of hardy that is the caller's to mend; the command line prints it as one line and exits with 2."""

import difflib
import re
from collections.abc import Iterable

_BREAKS = re.compile(r"[ \t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Control characters, lone surrogates, and the marks that turn or hide text: what follows U+202E is shown backwards.
_FORBIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_TOKEN = re.compile(r"\S{200,}")


DISTRIBUTION = "hardy-nn"
"""What pip knows hardy as; the module and the command are `hardy`."""


class InputError(ValueError):
    """An argument, file or model that cannot be used. The message names it, its value, and what is accepted."""


def install(extra: str) -> str:
    """The command that brings the packages of an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def near_misses(name: str, known: Iterable[str], most: int = 3) -> str:
    """ "; did you mean a, b?" for the members of `known` closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def printable(text: str) -> str:
    """`text` on one line: tabs and line breaks as spaces, other control characters and marks of direction as U+FFFD.

    Terminals obey control characters, SVG and HTML forbid them, and a table cell has one line.
    """
    return _FORBIDDEN.sub("\ufffd", _BREAKS.sub(" ", text).strip(" "))


def shortened(message: object, most: int = 1000) -> str:
    """What `message` says, `printable`, with the middle of very long words and its own end left out, which it shows."""
    text = _TOKEN.sub(lambda match: f"{match[0][:120]} ... {match[0][-40:]}", printable(str(message)[: 100 * most]))
    return text if len(text) <= most else f"{text[:most]} ..."
