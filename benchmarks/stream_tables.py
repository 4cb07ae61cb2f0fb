"""What the page of streams shows: perplexity and recall against bytes, tokens per second, depths and paths, frames."""

import itertools
import math
from collections.abc import Callable, Sequence

from benchmarks.harness.record import Record, rows
from benchmarks.harness.tables import Cell, of_columns, values_of
from hardy.report import Row


def stream_long() -> str:
    columns: dict[str, Cell] = {"cache": "{arm}", "MB": "{at[text=prose].cache.value:.1f}"}
    for text in ("prose", "code"):
        at = f"at[text={text}]"
        columns |= {
            f"{text}: perplexity": f"{{{at}.perplexity.value:.2f}}",
            f"{text}: facts recalled, %": f"{{{at}.recall.value:.0%}}",
            f"{text}: loss of answers, nats": f"{{{at}.answer_loss:.2f}}",
        }
    return of_columns(columns, rows("stream-long"), by=("arm",))


def stream_vision() -> str:
    rooms, real = "at[video=rooms]", "at[video=7-Scenes]"
    columns: dict[str, Cell] = {
        "cache": "{arm}",
        "tokens": f"{{{rooms}.kept}}",
        "kB": f"{{{rooms}.cache.value:.0f}}",
        "rooms: Abs Rel": f"{{{rooms}.abs_rel:.3f}}",
        "path, m": f"{{{rooms}.trajectory:.2f}}",
        "off all frames": f"{{{rooms}.off_dense:.4f}}",
        "7-Scenes: Abs Rel": f"{{{real}.abs_rel:.3f}}",
        "7-Scenes: path, m": f"{{{real}.trajectory:.2f}}",
        "7-Scenes: off all frames": f"{{{real}.off_dense:.4f}}",
    }
    return of_columns(columns, rows("stream-vision"), by=("arm",))


def stream_vision_speed() -> str:
    found = rows("stream-vision-speed")
    columns: dict[str, Cell] = {"cache": "{arm}"}
    for count in values_of("frames", found):
        at = f"at[frames={count}]"
        columns[f"after {count}"] = f"{{{at}.seconds.value:.2f}} s, {{{at}.cache.value:.3g}} MB"
    columns["times faster than dense"] = "{at[frames=250].times_faster.value:.1f}"
    columns["than keys anew"] = "{at[frames=250].times_faster_than_anew.value:.1f}"
    return of_columns(columns, found, by=("arm",))


def stream_vision_whole() -> str:
    """A table for each size of frames, and from how many frames on two frames of cache reach the paper's ratios."""
    found = rows("stream-vision-whole")
    parts = []
    for pixels in values_of("pixels", found):
        mine = [row for row in found if row.details["pixels"] == pixels]
        columns: dict[str, Cell] = {"cache": "{arm}"}
        for count in (counts := values_of("frames", mine)):
            at = f"at[frames={count}]"
            columns[f"after {count}"] = f"{{{at}.seconds.value:.1f}} s, {{{at}.cache.value:,.0f}} MB"
        last = f"at[frames={max(counts)}]"
        columns["times faster than dense"] = f"{{{last}.times_faster.value:.1f}}"
        columns["than keys anew"] = f"{{{last}.times_faster_than_anew.value:.1f}}"
        parts.append(f"Frames of {pixels} pixels:\n\n{of_columns(columns, mine, by=('arm',))}\n\n{_reached(mine)}")
    return "\n\n".join(parts)


SPEED, MEMORY = 5.5, 4.4
"""How many times faster, and with how many times less memory, the paper is than a dense cache."""


def _reached(found: Sequence[Row]) -> str:
    """From how many frames on a cache of two frames has the paper's ratios."""

    def of(arm: str, metric: str) -> dict[int, float]:
        mine = [row for row in found if row.details["arm"] == arm and row.metric == metric]
        return {int(str(row.details["frames"])): row.value for row in mine}

    ratios = of("2 frames, 16 bits", "times_faster")
    pairs = [pair for pair in itertools.pairwise(ratios) if ratios[pair[1]] >= SPEED]
    faster = "from between {} and {} frames on".format(*pairs[0]) if pairs else f"at no count up to {max(ratios)}"
    last, weights = max(ratios), Record.read("stream-vision-whole").report.settings["parameters"] * 2 / 1e6
    kept, per_frame = of("2 frames, 16 bits", "cache")[last], of("dense", "cache")[last] / last
    alone, whole = MEMORY * kept / per_frame, (MEMORY * (kept + weights) - weights) / per_frame
    return (
        f"Two frames are {SPEED:g} times faster than dense, the paper's ratio, {faster}; keys and values take "
        f"{MEMORY:g} times less from {math.ceil(alone)} frames on, with the weights ({weights / 1e3:.1f} GB) counted "
        f"from {math.ceil(whole)}."
    )


def stream_speed() -> str:
    found = rows("stream-speed")
    columns: dict[str, Cell] = {"cache": "{arm}"}
    for context in values_of("context", found):
        at = f"at[context={context}]"
        columns[f"after {context}: tokens/s"] = f"{{{at}.tokens_per_second.value:.1f}}"
        columns[f"of dense's time, {context}"] = f"{{{at}.time_of_dense.value:.2f}}"
        columns[f"MB, {context}"] = f"{{{at}.cache.value:.3g}}"
    return of_columns(columns, found, by=("arm",))


BLOCKS: dict[str, Callable[[], str]] = {
    "stream-long": stream_long,
    "stream-speed": stream_speed,
    "stream-vision": stream_vision,
    "stream-vision-speed": stream_vision_speed,
    "stream-vision-whole": stream_vision_whole,
}
