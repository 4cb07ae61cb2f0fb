"""Real models in three bits and a half

What is left of three published language models: perplexity of text that none saw before, as a multiple of the
unmodified model's. Beside hardy's trit-planes others of 3.2 to 3.5 bits: Q3_K of llama.cpp, GPTQ, hqq. Drawn from what
`python -m benchmarks run real_quantizers` measured, as the models are no part of hardy.
"""

# %%
import json
from pathlib import Path

from picture import axes, save

from hardy.report import Report

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
ARMS = {
    "two trit-planes, calibrated": "#0072b2",
    "llama.cpp Q3_K": "#d55e00",
    "GPTQ 3 bits": "#009e73",
    "hqq 3 bits": "#cc79a7",
    "two trit-planes, plain": "#8c96a3",
}
MODELS = {"smollm2-135m": "SmolLM2\n135M", "gemma3-270m": "Gemma 3\n270M", "qwen2.5-coder-0.5b": "Qwen2.5-Coder\n0.5B"}
TEXTS = {"prose": "articles", "reference": "a language reference"}

measured = {}
for name in ("real_quantizers", "real_quantizers-gemma", "real_quantizers-qwen"):
    report = Report.from_json(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["report"])
    measured |= {
        (row.details["model"], row.condition, row.metric.removeprefix("perplexity_")): row.value
        for row in report.rows
        if row.metric.startswith("perplexity_") and row.details.get("embedding_bits", 8) == 8
    }

# %%
figure, places = axes(10, 3.6, columns=2)
for ax, (text, said) in zip(places, TEXTS.items(), strict=True):
    for i, (arm, color) in enumerate(ARMS.items()):
        times = [measured[model, arm, text] / measured[model, "unmodified", text] for model in MODELS]
        ax.bar([m + 0.16 * (i - 2) for m in range(len(MODELS))], times, width=0.15, color=color, label=arm)
        print(f"{text:10} {arm:28}" + "".join(f"{each:8.2f}" for each in times))
    ax.set(yscale="log", ylim=(1, 100), title=said, yticks=[1, 2, 5, 10, 20, 50, 100])
    ax.set_yticklabels(["1", "2", "5", "10", "20", "50", "100"])
    ax.minorticks_off()
    ax.set_xticks(range(len(MODELS)), list(MODELS.values()))
    ax.title.set_fontsize(9)
places[0].set_ylabel("perplexity, times the unmodified")
figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8)
save("quantized_real_model", figure)
