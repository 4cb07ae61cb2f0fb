"""A study: where a model breaks first

Each layer of tiny-llama alone is rounded to 2 bits. Few of them do most of the harm, and keeping those whole helps far
more than keeping as many at random.
"""

# %% Measure: 2 bits everywhere, and in each layer alone
from picture import axes, save

from hardy.studies import Plan, survival

plan = Plan(bits=(2,), additive=(), proportional=(), n_seeds=2, keep=(0.1, 0.25))
report = survival("tiny-llama", plan=plan, tokens=256, window=128, workers=1)
print("\n".join(report.summary))

# %% Harm by layer, and what protection buys
metric = next(row.metric for row in report.rows if "this layer alone has 2-bit" in row.metric)
harm = sorted((row.value for row in report.select(metric)), reverse=True)
figure, (left, right) = axes(8, 3.2, columns=2)
left.bar(range(len(harm)), harm, color="#0072b2")
left.set(xlabel="layers, most fragile first", ylabel="loss at 2 bits in it alone [nats]")
kept = [row for row in report.select("perplexity") if row.condition.startswith("2-bit") and "kept" in row.condition]
names = [row.condition.removeprefix("2-bit rounding, ") for row in kept]
right.barh(names[::-1], [row.value for row in kept][::-1], color="#0072b2")
right.set(xlabel="perplexity, all other layers at 2 bits")
right.tick_params("y", labelsize=7)

# %%
save("study", figure)
