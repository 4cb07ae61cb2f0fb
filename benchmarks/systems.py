"""The 18 systems: what each page in docs/systems says of itself, and its claims beside what was measured."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.catalogue import FOLDER
from benchmarks.harness.record import Record
from benchmarks.harness.tables import Lines, table

PAGES = FOLDER.parent / "docs" / "systems"
REPRODUCED = ("yes", "partly", "no", "no figures yet")


@dataclass(frozen=True, kw_only=True)
class System:
    """A paper's system, as the head of its page has it.

    Args:
        page: the file, whose name is the system's name in links.
        number: 1 to 18.
        name: and what it is.
        paper: arXiv id.
        rooms: of hardy that hold it.
        state: what of it is there, in a few words.
        reproduced: one of REPRODUCED.
    """

    page: Path
    number: int
    name: str
    paper: str
    rooms: Sequence[str]
    state: str
    reproduced: str

    @classmethod
    def read(cls, page: Path) -> "System":
        _, head, _ = page.read_text(encoding="utf-8").split("---\n", 2)
        found = cls(page=page, **yaml.safe_load(head))
        if found.reproduced not in REPRODUCED:
            raise ValueError(f"{page}: reproduced is one of {REPRODUCED}, got {found.reproduced!r}")
        return found


def systems() -> list[System]:
    """In the order of their numbers."""
    found = [System.read(page) for page in PAGES.glob("*.md") if page.name != "index.md"]
    return sorted(found, key=lambda system: system.number)


def overview(folder: str) -> str:
    """The table of all systems, for a page from which `folder` leads to theirs."""
    lines = ["| # | system | room | state | reproduced |", "|---:|---|---|---|---|"]
    for one in systems():
        rooms = ", ".join(f"`{room}`" for room in one.rooms)
        paper = f"[{one.paper}](https://arxiv.org/abs/{one.paper})"
        name = f"[{one.name}]({folder}{one.page.name}) ({paper})"
        lines.append(f"| {one.number} | {name} | {rooms} | {one.state} | {one.reproduced} |")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of a system's table: what a paper says, and what was found with its control.

    Args:
        what: is claimed.
        paper: its own figure.
        results: names of committed results.
        ours, control: templates over their rows, as in `benchmarks.harness.tables`.
        verdict: a few words.
        where: which rows count.
    """

    what: str
    paper: str
    results: Sequence[str]
    ours: str
    control: str
    verdict: str
    where: Mapping[str, Any] = field(default_factory=dict)


record = functools.cache(Record.read)


def claims(name: str) -> str:
    """The table of a system, with the commands that measure it again."""
    parts = []
    for claim in CLAIMS[name]:
        rows = [row for result in claim.results for row in record(result).report.rows]
        cells = (claim.what, claim.paper, claim.ours, claim.control, claim.verdict)
        parts.append(Lines(rows=rows, by=(), where=claim.where, cells=cells))
    again = dict.fromkeys(record(result).command for claim in CLAIMS[name] for result in claim.results)
    measured = ", ".join(f"`{command}`" for command in again)
    return f"{table(('', 'paper', 'ours', 'control', 'verdict'), *parts)}\n\nMeasured by {measured}."


_TINY = {"model": "tiny-llama"}
_OF_DEVIATION = "additive, of the deviation"


def _spent(arm: str) -> str:
    return f"{{at[{arm}].energy of the products (OpenSTA).value:,.0f}}"


def _lanes(arm: str) -> str:
    return f"{{at[{arm}].area of the lanes.value:,.0f}}"


_W8A8 = {"activation": "sine", "bits": "W8A8", "first_layer_bits": 16, "per_channel": True, "range": "minmax"}

CLAIMS: dict[str, Sequence[Claim]] = {
    "locate-steer-improve": (
        Claim(
            what="attribution of heads on SmolLM2-135M: largest difference to TransformerLens",
            paper="a survey, without software or figures",
            results=("interp_peers",),
            ours="{at[attribution of heads].largest_difference.value:.1e}",
            control="largest value {at[attribution of heads].largest.value:.2f}",
            verdict="the same",
        ),
        Claim(
            what="time of patching, as a share of TransformerLens'",
            paper="-",
            results=("interp_peers",),
            ours="{at[hardy / TransformerLens, patching].ratio:.2f}",
            control="1",
            verdict="faster",
        ),
        Claim(
            what="a sentiment direction at scale 1: shift of the log-odds, in nats",
            paper="-",
            results=("interp-steer",),
            ours="{at[sentiment, mean-difference, scale 1].shift.value:.1f}",
            control="three random directions: {at[sentiment, random 0, scale 1].shift.value:.1f}, "
            "{at[sentiment, random 1, scale 1].shift.value:.1f}, {at[sentiment, random 2, scale 1].shift.value:.1f}",
            verdict="works, in order of the dose",
        ),
    ),
    "romer": (
        *(
            Claim(
                what=f"perplexity after both repairs, as a share of before; {noise} % noise on {placement}",
                paper="0.40 to 0.41 at best",
                results=("romer",),
                where={"noise": f"additive {noise} % of each tensor's largest weight", "placement": placement},
                ours="{at[both].ratio_to_noisy:.3f}",
                control="random replacement: {at[random replacement].ratio_to_noisy:.3f}; "
                f"ceiling: {{at[{ceiling}].ratio_to_noisy:.3f}}",
                verdict=verdict,
            )
            for placement, noise, ceiling, verdict in (
                (
                    "experts and routers",
                    40,
                    "digital experts and routers",
                    "holds; a quarter of the experts kept digital does about as much",
                ),
                ("experts", 40, "digital experts", "half; noise leaves the routers nothing to calibrate"),
                ("everything", 10, "digital experts and routers", "less than half of the little there is to gain"),
            )
        ),
        Claim(
            what="the same on measured cells, everything on the chip",
            paper="-",
            results=("romer",),
            where={"noise": "ReRAM (Wan et al.)", "placement": "everything"},
            ours="{at[both].ratio_to_noisy:.3f}",
            control="random replacement: {at[random replacement].ratio_to_noisy:.3f}; "
            "ceiling: {at[digital experts and routers].ratio_to_noisy:.3f}",
            verdict="no gain, and nothing to gain",
        ),
    ),
    "ptqtp": (
        Claim(
            what="two planes without data: perplexity (unmodified first)",
            paper="13.64, 18.25 (Qwen3-4B)",
            results=("quantizers",),
            where=_TINY,
            ours="{at[unmodified].perplexity.value:.1f}, {at[TritPlanes()].perplexity.value:.1f}",
            control="GPTQ at {at[GPTQ(group_size=43, bits=3)].bits_per_weight:.2f} bits: "
            "{at[GPTQ(group_size=43, bits=3)].perplexity:.1f}",
            verdict="holds on a small model; behind GPTQ, which sees text",
        ),
        *(
            Claim(
                what=f"two planes on {title}: perplexity on WikiText and on Python's language reference, "
                "neither of a kind that was calibrated on",
                paper="-",
                results=(record,),
                where={"model": model},
                ours="plain {at[two trit-planes, plain].perplexity_prose:.0f}, "
                "{at[two trit-planes, plain].perplexity_reference:.0f}; rotated "
                "{at[two trit-planes, plain, rotated].perplexity_prose:.0f}, "
                "{at[two trit-planes, plain, rotated].perplexity_reference:.0f}; calibrated and rotated "
                "{at[two trit-planes, calibrated].perplexity_prose:.1f}, "
                "{at[two trit-planes, calibrated].perplexity_reference:.1f}",
                control="unmodified {at[unmodified].perplexity_prose:.1f}, {at[unmodified].perplexity_reference:.1f}; "
                "llama.cpp's Q3_K {at[llama.cpp Q3_K].perplexity_prose:.1f}, "
                "{at[llama.cpp Q3_K].perplexity_reference:.1f}",
                verdict=verdict,
            )
            for title, model, record, verdict in (
                (
                    "SmolLM2-135M",
                    "smollm2-135m",
                    "real_quantizers",
                    "plain planes collapse; calibrated, rotated: ahead on both",
                ),
                (
                    "Gemma 3 270M",
                    "gemma3-270m",
                    "real_quantizers-gemma",
                    "plain planes collapse; calibrated, rotated: ahead on both",
                ),
                (
                    "Qwen2.5-Coder 0.5B",
                    "qwen2.5-coder-0.5b",
                    "real_quantizers-qwen",
                    "plain planes lose half; level on one text, behind on one",
                ),
            )
        ),
        Claim(
            what="two planes on Qwen2.5-Coder 1.5B, calibrated and rotated: the same",
            paper="-",
            results=("real_quantizers-qwen15",),
            where={"model": "qwen2.5-coder-1.5b"},
            ours="{at[two trit-planes, calibrated].perplexity_prose:.1f}, "
            "{at[two trit-planes, calibrated].perplexity_reference:.2f}",
            control="unmodified {at[unmodified].perplexity_prose:.1f}, {at[unmodified].perplexity_reference:.2f}; "
            "llama.cpp's Q3_K {at[llama.cpp Q3_K].perplexity_prose:.1f}, "
            "{at[llama.cpp Q3_K].perplexity_reference:.2f}; hqq {at[hqq 3 bits].perplexity_prose:.1f}, "
            "{at[hqq 3 bits].perplexity_reference:.2f}; 4-bit rounding "
            "{at[round to nearest 4 bits].perplexity_prose:.1f}, "
            "{at[round to nearest 4 bits].perplexity_reference:.2f}",
            verdict="ahead of what has as many bits, on both; behind 4 bits",
        ),
        Claim(
            what="the same, calibrated (ours)",
            paper="-",
            results=("quantizers",),
            where=_TINY,
            ours="{at[CalibratedTritPlanes()].perplexity:.1f} at {at[CalibratedTritPlanes()].bits_per_weight:.2f} bits",
            control="GPTQ: {at[GPTQ(group_size=43, bits=3)].perplexity:.1f}",
            verdict="level with GPTQ",
        ),
        Claim(
            what="one plane",
            paper="collapses",
            results=("quantizers",),
            where=_TINY,
            ours="plain {at[TritPlanes(planes=1)].perplexity.value:.0f}, "
            "calibrated {at[CalibratedTritPlanes(planes=1)].perplexity.value:.0f}",
            control="GPTQ at {at[GPTQ(bits=2)].bits_per_weight:.2f} bits: {at[GPTQ(bits=2)].perplexity.value:.0f}",
            verdict="holds",
        ),
        Claim(
            what="one plane, calibrated, SmolLM2-135M, perplexity on two kinds of text",
            paper="-",
            results=("real_quantizers-low",),
            where={"model": "smollm2-135m"},
            ours="{at[one trit-plane, calibrated].perplexity_prose:.0f}, "
            "{at[one trit-plane, calibrated].perplexity_reference:.0f} at "
            "{at[one trit-plane, calibrated].bits_per_weight:.2f} bits",
            control="llama.cpp's IQ2_XXS {at[llama.cpp IQ2_XXS].perplexity_prose:.0f}, "
            "{at[llama.cpp IQ2_XXS].perplexity_reference:.0f} at {at[llama.cpp IQ2_XXS].bits_per_weight:.2f}",
            verdict="far ahead, and still ruined",
        ),
        Claim(
            what="tokens per second with two planes, as a multiple of 16-bit weights",
            paper="4.63 on a GPU",
            results=("decode",),
            where={"threads": 1},
            ours="{at[2 planes].times_bfloat16.value:.2f} on one CPU thread",
            control="{at[bfloat16].times_bfloat16.value:.0f}",
            verdict="the same direction on other hardware",
        ),
        *(
            Claim(
                what=f"tokens per second of {title}, as a multiple of llama.cpp's Q4_K_M, one CPU thread",
                paper="-",
                results=("real_decode",),
                where={"model": model, "threads": 1, "prompt": 32},
                ours="{at[hardy, two planes].times_rival.value:.2f}",
                control="transformers in bfloat16: {at[transformers, bfloat16].times_rival.value:.2f}",
                verdict="faster, and not as near to the unmodified model",
            )
            for title, model in (("SmolLM2-135M", "smollm2-135m"), ("Qwen2.5-Coder 0.5B", "qwen2.5-coder-0.5b"))
        ),
    ),
    "memristors": (
        Claim(
            what="right answers in written steps, noise of 0.4 of each weight, three copies of two layers",
            paper="shallow layers are worth most",
            results=("reasoning",),
            where={"noise": "proportional"},
            ours="shallow {at[steps, shallow copied, proportional 0.4].accuracy:.2f}",
            control="middle {at[steps, middle copied, proportional 0.4].accuracy:.2f}, "
            "deep {at[steps, deep copied, proportional 0.4].accuracy:.2f}, "
            "none {at[steps, proportional 0.4].accuracy:.2f}",
            verdict="holds",
        ),
        Claim(
            what="perplexity of running text at noise of 0.3, three copies of two layers",
            paper="shallow layers are worth most",
            results=("redundancy",),
            where={"noise": "proportional 0.3"},
            ours="shallow {at[shallow].perplexity:.1f}",
            control="deep {at[deep].perplexity:.1f}, random {at[random].perplexity:.1f}",
            verdict="does not: deep ones are",
        ),
        Claim(
            what="perplexity of SmolLM2-135M on measured ReRAM cells, three copies of a third of its layers",
            paper="shallow layers are worth most",
            results=("real_chip-redundancy-smollm2",),
            where={"noise": "ReRAM (Wan et al.)"},
            ours="shallow {at[shallow].perplexity.value:.1f}",
            control="deep {at[deep].perplexity.value:.1f}, random {at[random].perplexity.value:.1f}, none "
            "{at[no copies].perplexity.value:.1f}",
            verdict="does not: all thirds are alike",
        ),
        Claim(
            what="at once, and in steps, at noise of 0.8",
            paper="steps lose at high noise",
            results=("reasoning",),
            where={"noise": "proportional"},
            ours="{at[direct, proportional 0.8].accuracy:.2f} and {at[steps, proportional 0.8].accuracy:.2f}",
            control="without noise {at[direct, no noise].accuracy.value:.2f} and "
            "{at[steps, no noise].accuracy.value:.2f}",
            verdict="only where both are guesses",
        ),
    ),
    "xstreamvggt": (
        Claim(
            what="a frame of 392 x 518 after 100 others in two frames of cache, against a dense cache; the public "
            "architecture in bfloat16, random weights, on a CPU",
            paper="5.48 times faster",
            results=("stream-vision-whole",),
            ours="{at[2 frames, 16 bits | after 100 frames of 392 x 518].times_faster.value:.1f} times faster",
            control="after 50: {at[2 frames, 16 bits | after 50 frames of 392 x 518].times_faster.value:.1f}; against "
            "keys made anew, as StreamVGGT has them: "
            "{at[2 frames, 16 bits | after 100 frames of 392 x 518].times_faster_than_anew.value:.1f}",
            verdict="holds, from less than 100 frames on",
        ),
        Claim(
            what="a frame after 250 others in two frames of cache, against a dense cache; small VGGT, random weights",
            paper="5.48 times faster",
            results=("stream-vision-speed",),
            ours="{at[2 frames, 16 bits | after 250 frames of 140 x 182].times_faster.value:.1f} times faster",
            control="against keys made anew at every frame, as StreamVGGT has them: "
            "{at[2 frames, 16 bits | after 250 frames of 140 x 182].times_faster_than_anew.value:.1f}; eight frames in "
            "4 bits against dense: {at[8 frames, 4 bits | after 250 frames of 140 x 182].times_faster.value:.1f}",
            verdict="as large a ratio, of a model that a CPU can run",
        ),
        Claim(
            what="keys and values after 250 frames, MB, of that model",
            paper="4.42 times less memory in all",
            results=("stream-vision-speed",),
            ours="{at[8 frames, 4 bits | after 250 frames of 140 x 182].cache.value:.1f}",
            control="dense, float32: {at[dense | after 250 frames of 140 x 182].cache.value:.0f}",
            verdict="keys and values only; weights and activations, which the paper counts too, stay",
        ),
        Claim(
            what="depth error (Abs Rel) on rooms never seen, within the bytes of eight frames in 16 bits",
            paper="near-equal",
            results=("stream-vision",),
            ours="its rule, 4 bits: {at[pooled-query, 4 bits | rooms].abs_rel:.3f}; "
            "16 bits: {at[pooled-query, 16 bits | rooms].abs_rel:.3f}",
            control="all frames: {at[dense, 16 bits | rooms].abs_rel:.3f}; random, 4 bits: "
            "{at[random, 4 bits | rooms].abs_rel:.3f}; one constant depth: "
            "{at[best constant depth | rooms].abs_rel:.3f}",
            verdict="near-equal, as is random eviction; 4 bits come nearer to all frames than 16",
        ),
    ),
    "robust-inr": (
        *(
            Claim(
                what=f"PSNR gained at {level} % weight noise by the gradient norm in the loss, photographs, dB",
                paper="up to +7.5",
                results=("robust-long",),
                where={"signals": "photographs", "noise": f"{_OF_DEVIATION}, {level}%"},
                ours="width 48: {at[width=48].at[gradient norm].gain:+.1f}; "
                "128: {at[width=128].at[gradient norm].gain:+.1f}",
                control="plain: {at[width=48].at[plain].psnr.value:.1f}; {at[width=128].at[plain].psnr.value:.1f}",
                verdict=verdict,
            )
            for level, verdict in (
                (2, "a part of it"),
                (5, "a part of it on the narrow network, nothing on the wide one"),
            )
        ),
        Claim(
            what="the same at 5 % by training at perturbed weights (ours)",
            paper="-",
            results=("robust-long",),
            where={"signals": "photographs", "noise": f"{_OF_DEVIATION}, 5%"},
            ours="width 48: {at[width=48].at[perturbed weights].gain:+.1f}; "
            "128: {at[width=128].at[perturbed weights].gain:+.1f}",
            control="sharpness-aware: {at[width=48].at[sharpness-aware].gain:+.1f}; "
            "{at[width=128].at[sharpness-aware].gain:+.1f}",
            verdict="the loss that gains; 12 and 46 dB less without noise",
        ),
        Claim(
            what="the same of sounds and of shapes (gradient norm)",
            paper="several kinds of signals",
            results=("robust-long",),
            where={"noise": f"{_OF_DEVIATION}, 5%"},
            ours="{at[signals=sounds].at[gradient norm].gain:+.1f}; {at[signals=shapes].at[gradient norm].gain:+.1f}",
            control="perturbed: {at[signals=sounds].at[perturbed weights].gain:+.1f}; "
            "{at[signals=shapes].at[perturbed weights].gain:+.1f}",
            verdict="small there too; sounds stand no noise, whatever the loss",
        ),
    ),
    "grant": (
        Claim(
            what="CPU time saved by its own protocol on generated graphs, in proportions (S)",
            paper="30 % (with batches 31 to 47 %)",
            results=("teach_paper",),
            ours="{at[graph-regression: proportional].CPU time saved:.0f} %, "
            "error {at[graph-regression: proportional].MAE:.2f}",
            control="random choice, same schedule: {at[graph-regression: random].CPU time saved:.0f} %, "
            "error {at[graph-regression: random].MAE:.2f}; full training: {at[graph-regression: full].MAE:.2f}",
            verdict="the schedule saves it; the choice itself makes the error larger",
        ),
        Claim(
            what="error below that of random choice, generated graphs without noise, soft",
            paper="not compared",
            results=("teach_table",),
            ours="{at[generated graph-regression: soft].better than random (MAE):+.3f}",
            control="0; at equal CPU seconds "
            "{at[generated graph-regression: soft].better than random at equal CPU seconds (MAE):+.3f}",
            verdict="better by less than its spread, and not at equal seconds, on none of nine sets without noise",
        ),
        Claim(
            what="MUTAG, real labels: area under the curve above that of random choice, soft",
            paper="not compared",
            results=("teach_table",),
            ours="{at[MUTAG: soft].better than random (AUC):+.3f}",
            control="0; by the paper's rule, hard: {at[MUTAG: hard].better than random (AUC):+.3f}",
            verdict="soft is within its spread of random on all eight real sets, hard is below it on seven",
        ),
    ),
    "global-to-local": (
        Claim(
            what="work until vanilla's PSNR is reached, as a share of vanilla's; room, equal budget",
            paper="0.48 of the time",
            results=("splat-room",),
            where={"whole": True},
            ours="{at[global_to_local].pairs_to_vanilla.value:.2f}",
            control="{at[vanilla].pairs_to_vanilla.value:.2f}",
            verdict="holds",
        ),
        Claim(
            what="PSNR at the end, dB",
            paper="27.79 (vanilla 27.57)",
            results=("splat-room",),
            where={"whole": True},
            ours="{at[global_to_local].psnr:.2f}",
            control="vanilla: {at[vanilla].psnr:.2f}",
            verdict="holds",
        ),
        Claim(
            what="Gaussians, fox at 270 x 480, no budget",
            paper="40 % fewer",
            results=("splat-fox-270",),
            where={"whole": True},
            ours="{at[global_to_local].gaussians.value:,.0f}",
            control="vanilla: {at[vanilla].gaussians.value:,.0f}",
            verdict="does not: more (fewer in the room)",
        ),
    ),
    "painpainter": (
        *(
            Claim(
                what=f"PSNR in holes of which other photos see the surface, {what}, dB",
                paper="26.03 (SPIn-NeRF, all of the hole)",
                results=("inpaint-long",),
                ours=f"{{at[{scene}, whole].seen:.1f}}",
                control=f"photos filled one by one: {{at[{scene}, 2D fill, PatchMatch].seen:.1f}} and "
                f"{{at[{scene}, 2D fill, Navier-Stokes].seen:.1f}}; true photos: "
                f"{{at[{scene}, true photos].seen.value:.1f}}",
                verdict=verdict,
            )
            for scene, what, verdict in (
                ("hovering", "a ball in mid-air", "above, by more than 2 dB"),
                ("standing", "a ball on the floor", "above, by more than 2 dB"),
                ("wall", "a block on a wall", "above, by more than 2 dB"),
            )
        ),
        Claim(
            what="the same of which no photo does, a block on a wall",
            paper="-",
            results=("inpaint-long",),
            ours="{at[wall, whole].unseen:.1f}",
            control="{at[wall, 2D fill, PatchMatch].unseen:.1f} and {at[wall, 2D fill, Navier-Stokes].unseen:.1f}",
            verdict="above; within 1 dB was asked",
        ),
        Claim(
            what="agreement of renderings where nobody sees the surface, a block on a wall, dB",
            paper="-",
            results=("inpaint-long",),
            ours="{at[wall, whole].agreement:.1f}",
            control="{at[wall, 2D fill, PatchMatch].agreement:.1f} and "
            "{at[wall, 2D fill, Navier-Stokes].agreement:.1f}; without propagation "
            "{at[wall, without propagation].agreement:.1f}",
            verdict="above, by propagation",
        ),
        Claim(
            what="agreement of renderings in holes, a ball in mid-air, dB",
            paper="-",
            results=("inpaint-long",),
            ours="{at[hovering, whole].agreement:.1f}",
            control="{at[hovering, 2D fill, PatchMatch].agreement:.1f} and "
            "{at[hovering, 2D fill, Navier-Stokes].agreement:.1f}",
            verdict="above",
        ),
    ),
    "react-gs": (
        Claim(
            what="PSNR at an equal budget, room, 5,000 steps, dB",
            paper="27.79 (vanilla 27.29)",
            results=("splat-room-long",),
            where={"whole": True},
            ours="{at[reactivate].psnr:.2f}",
            control="vanilla: {at[vanilla].psnr:.2f}",
            verdict="above vanilla in each of three seeds",
        ),
        Claim(
            what="the same, fox, 4,000 steps",
            paper="-",
            results=("splat-fox-135-long",),
            where={"whole": True},
            ours="{at[reactivate].psnr:.2f}",
            control="vanilla: {at[vanilla].psnr:.2f}",
            verdict="no gain",
        ),
    ),
    "quadinr": (
        Claim(
            what="PSNR of eight photographs, omegas chosen on others, dB",
            paper="up to +2.06",
            results=("fields",),
            ours="{at[Quad(first_omega=30.0, hidden_omega=30.0)].psnr:.1f}",
            control="sine: {at[Sine(first_omega=45.0, hidden_omega=45.0)].psnr:.1f}",
            verdict="ahead by 1.1 dB in the mean",
        ),
        Claim(
            what="area of a 16-bit unit in sky130, µm²",
            paper="up to 97 % fewer resources",
            results=("rtl",),
            ours="folded squarer {at[quad-folded, 16 bits].area.value:,.0f}; "
            "generic {at[quad-generic, 16 bits].area.value:,.0f}",
            control="CORDIC: {at[cordic-radians, 16 bits].area.value:,.0f}; "
            "a table of sines: {at[sine-table, 16 bits].area.value:,.0f}; "
            "with interpolation: {at[sine-interpolated, 16 bits].area.value:,.0f}",
            verdict="0.12 and 0.17 of CORDIC's; a table is smaller still, and less exact",
        ),
        Claim(
            what="the same of a 32-bit unit",
            paper="-",
            results=("rtl",),
            ours="folded squarer {at[quad-folded, 32 bits].area.value:,.0f}; "
            "generic {at[quad-generic, 32 bits].area.value:,.0f}",
            control="CORDIC: {at[cordic-radians, 32 bits].area.value:,.0f}; "
            "a table with interpolation: {at[sine-interpolated, 32 bits].area.value:,.0f}",
            verdict="0.10 and 0.17 of CORDIC's, and smaller than interpolation",
        ),
        Claim(
            what="LUTs + DSP blocks of a 16-bit unit",
            paper="up to 97 % fewer resources",
            results=("rtl",),
            ours="generic squarer {at[quad-generic, 16 bits].luts.value:.0f} + "
            "{at[quad-generic, 16 bits].dsps.value:.0f}; folded {at[quad-folded, 16 bits].luts.value:.0f} + 0",
            control="CORDIC: {at[cordic-radians, 16 bits].luts.value:.0f} + "
            "{at[cordic-radians, 16 bits].dsps.value:.0f}; a table: {at[sine-table, 16 bits].luts.value:.0f} + 0; "
            "with interpolation: {at[sine-interpolated, 16 bits].luts.value:.0f} + "
            "{at[sine-interpolated, 16 bits].dsps.value:.0f}",
            verdict="0.08 and 0.24 of CORDIC's LUTs",
        ),
        Claim(
            what="power of a 16-bit unit at 100 MHz, mW",
            paper="up to 97 % less",
            results=("rtl",),
            ours="{at[quad-folded, 16 bits].power.value:.2f}",
            control="CORDIC: {at[cordic-radians, 16 bits].power.value:.2f}; "
            "a table: {at[sine-table, 16 bits].power.value:.2f}",
            verdict="a tenth of CORDIC's",
        ),
        Claim(
            what="cycles of latency at 16 bits (32)",
            paper="up to 93 % fewer",
            results=("rtl",),
            ours="{at[quad-folded, 16 bits].latency.value:.0f} ({at[quad-folded, 32 bits].latency.value:.0f})",
            control="CORDIC: {at[cordic-radians, 16 bits].latency.value:.0f} "
            "({at[cordic-radians, 32 bits].latency.value:.0f}); "
            "a table: {at[sine-table, 16 bits].latency.value:.0f} ({at[sine-table, 32 bits].latency.value:.0f})",
            verdict="most of CORDIC's saved; a table needs as few",
        ),
    ),
    "dhq": (
        Claim(
            what="PSNR of sine networks at 8 bits with Hadamard everywhere, dB",
            paper="above earlier quantizers",
            results=("dhq",),
            where=_W8A8,
            ours="{at[always].psnr:.2f}",
            control="never: {at[never].psnr:.2f}",
            verdict="does not help",
        ),
        Claim(
            what="the same at 6 bits",
            paper="-",
            results=("dhq",),
            where=_W8A8 | {"bits": "W6A6"},
            ours="{at[always].psnr:.2f}",
            control="never: {at[never].psnr:.2f}",
            verdict="hurts",
        ),
        Claim(
            what="the same where it is chosen layer by layer (ours, 4-bit weights)",
            paper="-",
            results=("dhq",),
            where=_W8A8 | {"bits": "W4A8"},
            ours="{at[auto].psnr:.2f}",
            control="never: {at[never].psnr:.2f}",
            verdict="a little",
        ),
        Claim(
            what="energy of a pixel's products by OpenSTA, pJ",
            paper="40 % less than full precision",
            results=("rtl_fields",),
            ours=_spent("W8A8, transform on the lanes"),
            control=f"binary32: {_spent('binary32')}; 32-bit fixed point: {_spent('32-bit fixed point')}; "
            f"16-bit: {_spent('W16A16 fixed point')}",
            verdict="a sixth of binary32's; the transform's additions cost two fifths again (model)",
        ),
        Claim(
            what="area of four lanes in sky130, µm²",
            paper="up to 98 % fewer resources",
            results=("rtl_fields",),
            ours=_lanes("W8A8, transform on the lanes"),
            control=f"binary32: {_lanes('binary32')}; 32-bit fixed point: {_lanes('32-bit fixed point')}; "
            f"16-bit: {_lanes('W16A16 fixed point')}",
            verdict="85 % less than binary32, 91 % less than 32 bits",
        ),
        Claim(
            what="cycles of a pixel with the transform",
            paper="33 % less latency",
            results=("rtl_fields",),
            ours="on the lanes {at[W8A8, transform on the lanes].cycles of a pixel.value:.0f}; "
            "in parallel {at[W8A8, transform in parallel].cycles of a pixel.value:.0f}",
            control="without one, at any width: {at[W8A8, no transform].cycles of a pixel.value:.0f}",
            verdict="few bits save no cycle at one product a lane, and a transform costs some",
        ),
    ),
    "minr": (
        Claim(
            what="PSNR of photographs in company of 16 that share layers, sine, dB (numbers of a photo)",
            paper="60 % fewer, comparable; 34 dB",
            results=("minr",),
            where={"activation": "sine", "width": 48},
            ours="{at[shared].at[photos=16].psnr:.1f} ({at[shared].at[photos=16].parameters.value:,.0f})",
            control="a network each, as wide: {at[separate].psnr:.1f} ({at[separate].parameters.value:,.0f}); with as "
            "many numbers: {at[shared].at[photos=16].psnr_of_separate_at_equal_parameters.value:.1f}",
            verdict="58 % fewer than equally wide networks, and 5 dB less; no better than narrower ones",
        ),
        Claim(
            what="the same of 32",
            paper="more images, more saved",
            results=("minr",),
            where={"activation": "sine", "width": 48, "photos": 32},
            ours="{at[shared].psnr:.1f} ({at[shared].parameters.value:,.0f})",
            control="with as many numbers: {at[shared].psnr_of_separate_at_equal_parameters.value:.1f}",
            verdict="61 % fewer than equally wide networks; no better than narrower ones",
        ),
        Claim(
            what="without each image's own projection",
            paper="the projection matters",
            results=("minr",),
            where={"activation": "sine", "width": 48, "photos": 16},
            ours="{at[bare].psnr:.1f} ({at[bare].parameters.value:,.0f})",
            control="with it: {at[shared].psnr:.1f} ({at[shared].parameters.value:,.0f})",
            verdict="holds",
        ),
        Claim(
            what="rendered at twice the size, dB",
            paper="comparable",
            results=("minr",),
            ours="{at[activation=sine].at[width=48].at[photos=16].at[shared].psnr_at_twice_the_size:.1f}",
            control="a network each: {at[activation=sine].at[width=48].at[separate].psnr_at_twice_the_size:.1f}; cubic "
            "interpolation: {at[cubic interpolation].psnr_at_twice_the_size:.1f}",
            verdict="below a network each, and both below interpolation",
        ),
        Claim(
            what="a photograph added to 32, after 300 steps (3,000), dB",
            paper="-",
            results=("minr",),
            where={"activation": "sine", "width": 48},
            ours="{at[shared].at[photos=32].added_after_300.value:.1f} "
            "({at[shared].at[photos=32].added_after_3000.value:.1f})",
            control="alone: {at[separate].added_after_300.value:.1f} ({at[separate].added_after_3000.value:.1f})",
            verdict="slower at first and 4 dB below alone in the end, with a third of the numbers",
        ),
    ),
    "extended-ste": (
        Claim(
            what="accuracy of ResNet-20 at 10 % noise, %",
            paper="up to +5.3 points",
            results=("noise_aware-vision",),
            where={"noise": 0.1},
            ours="{at[straight-through, clean].accuracy:.1f}",
            control="trained through the noise: {at[full gradient].accuracy:.1f}; "
            "without: {at[plain fine-tuning].accuracy:.1f}",
            verdict="the noise gains it, not the estimator",
        ),
        Claim(
            what="perplexity at 10 % noise",
            paper="up to -0.72",
            results=("noise_aware-language",),
            where={"noise": 0.1},
            ours="{at[straight-through, clean].perplexity:.1f}",
            control="trained through the noise: {at[full gradient].perplexity:.1f}; "
            "without: {at[plain fine-tuning].perplexity:.1f}",
            verdict="within the spread",
        ),
        Claim(
            what="a step of training with phase-change cells, tiny-llama, seconds",
            paper="2.2 times faster",
            results=("noise_aware-cost",),
            where={"task": "tiny-llama, 4 x 256 tokens", "noise": "PCM cells, tiles of 256"},
            ours="{at[straight-through, clean].step_s.value:.2f}",
            control="full gradient: {at[full gradient].step_s.value:.2f}",
            verdict="faster, by less",
        ),
        Claim(
            what="memory of that step, MB",
            paper="38 % less",
            results=("noise_aware-cost",),
            where={"task": "tiny-llama, 4 x 256 tokens", "noise": "PCM cells, tiles of 256"},
            ours="{at[straight-through, clean].peak_mb.value:.0f}",
            control="full gradient: {at[full gradient].peak_mb.value:.0f}",
            verdict="holds, and more",
        ),
    ),
    "bwma": (
        Claim(
            what="ResNet-20 on CIFAR-10, 4-bit activations, 50 steps from the trained network",
            paper="1.44 to 5.46 points above earlier rules",
            results=("binary_training-seeds",),
            ours="{at[bwma, 4 bits].accuracy:.1f} %",
            control="IR-Net {at[irnet, 4 bits].accuracy:.1f}, ReActNet {at[reactnet, 4 bits].accuracy:.1f}, LSQ "
            "{at[lsq-a, 4 bits].accuracy:.1f}",
            verdict="ahead of four rules by more than the spread, of LSQ within it; far from trained out",
        ),
        Claim(
            what="the same, 150 steps, one seed",
            paper="-",
            results=("binary_training-long",),
            ours="{at[bwma, 4 bits].accuracy.value:.1f} %",
            control="LSQ {at[lsq-a, 4 bits].accuracy.value:.1f}, IR-Net {at[irnet, 4 bits].accuracy.value:.1f}; XNOR's "
            "weights with its activations "
            "{at[XNOR weights, staircase activations, 4 bits].accuracy.value:.1f}",
            verdict="level with LSQ; the activations are what pays, not the weights",
        ),
        Claim(
            what="50 steps, 2 bits",
            paper="-",
            results=("binary_training",),
            ours="{at[bwma, 2 bits].accuracy:.1f} %",
            control="IR-Net {at[irnet, 2 bits].accuracy:.1f}, LSQ {at[lsq-a, 2 bits].accuracy:.1f}",
            verdict="level with IR-Net",
        ),
    ),
    "hpd": (
        Claim(
            what="perplexity of tiny-mamba with all output projections on the chip, noise of 0.3 of the tensor's "
            "largest weight, columns scaled",
            paper="up to 99.57 % lower",
            results=("hpd_regimes",),
            where={
                "placement": "all output projections",
                "noise": "relative to the tensor's largest weight",
                "strength": 0.3,
            },
            ours="{at[singular vectors, scaled columns].perplexity.value:.0f}",
            control="not split {at[as it is].perplexity.value:.0f}; plain columns, the paper's, "
            "{at[singular vectors, plain columns].perplexity.value:.0f}; a random rotation "
            "{at[random rotation].perplexity.value:.0f}, a Hadamard matrix {at[Hadamard matrix].perplexity.value:.0f}",
            verdict="lower; a Hadamard matrix does better",
        ),
        Claim(
            what="all of it on the chip, the last output projection split, noise of 0.3 of each weight",
            paper="-",
            results=("hpd",),
            where={"noise": "proportional", "strength": 0.3},
            ours="{at[HPD last].perplexity:.1f}",
            control="not split: {at[noisy].perplexity:.1f}; a random one: {at[HPD random].perplexity:.1f}",
            verdict="does not",
        ),
        Claim(
            what="perplexity of SmolLM2-135M, every projection on measured ReRAM cells with converters, split where it "
            "pays by singular vectors, columns scaled",
            paper="-",
            results=("hpd_real",),
            ours="{at[singular vectors, where they pay].perplexity.value:.1f}",
            control="not split {at[as it is].perplexity.value:.1f}; a Hadamard matrix where it pays "
            "{at[Hadamard matrix, where it pays].perplexity.value:.1f}",
            verdict="lower",
        ),
        Claim(
            what="a published RWKV, last output projection split, the same noise",
            paper="-",
            results=("hpd_rwkv",),
            where={"noise": "proportional", "strength": 0.3},
            ours="{at[HPD last, scaled].perplexity:.2f}",
            control="not split: {at[noisy].perplexity:.2f}; a random one: {at[HPD random, scaled].perplexity:.2f}",
            verdict="does not",
        ),
    ),
    "lieq": (
        Claim(
            what="rank correlation of effective rank with the perplexity drop",
            paper="above 0.8",
            results=("lieq",),
            where={"condition": "effective rank (LieQ v2)", "with": "perplexity drop"},
            ours="{spearman.value:.2f}",
            control="chance alone gives 0.62 once in twenty",
            verdict="does not reach it",
        ),
        Claim(
            what="perplexity with one block of eight at 4 bits, the others at 2",
            paper="the top layer recovers most",
            results=("lieq",),
            where={"blocks_at_4_bits": 1},
            ours="{at[effective rank (LieQ v2)].perplexity.value:.0f}",
            control="its bottom: {at[effective rank (LieQ v2), reversed].perplexity.value:.0f}; "
            "the best, found by measuring: {at[harm of 2 bits in it alone].perplexity.value:.0f}",
            verdict="the order holds; it is not the best block",
        ),
        Claim(
            what="rank correlation with the perplexity drop, SmolLM2-135M",
            paper="above 0.8",
            results=("lieq_real",),
            where={"condition": "effective rank"},
            ours="{spearman_with_drop.value:.2f}",
            control="with the harm of 2 bits in the block alone: {spearman_with_harm.value:.2f}",
            verdict="does not",
        ),
        Claim(
            what="perplexity of SmolLM2-135M on code, half of the blocks at 5 bits, the others at 3",
            paper="the top layers recover most",
            results=("lieq_real-milder",),
            where={"budget": "15 of 30 blocks at 5 bits", "text": "code"},
            ours="{at[by=effective rank].perplexity.value:.1f}",
            control="at random: {at[by=random].perplexity.value:.1f}, reversed: "
            "{at[by=effective rank, reversed].perplexity.value:.1f}; by measured harm: "
            "{at[by=measured harm].perplexity.value:.1f}",
            verdict="worse than chance; 4 bits everywhere are better than any",
        ),
    ),
    "halora": (
        Claim(
            what="right answers at 6 % noise, %",
            paper="up to +22.7 points",
            results=("halora",),
            where={"noise": 0.06},
            ours="{at[HaLoRA].accuracy:.1%}",
            control="LoRA: {at[LoRA].accuracy:.1%}; LoRA + noise: {at[LoRA + noise].accuracy:.1%}",
            verdict="ahead",
        ),
        Claim(
            what="without noise",
            paper="-",
            results=("halora",),
            where={"noise": 0.0},
            ours="{at[HaLoRA].accuracy:.1%}",
            control="LoRA: {at[LoRA].accuracy:.1%}",
            verdict="behind",
        ),
    ),
}
"""By the name of the system's page; a system without committed results has none."""
