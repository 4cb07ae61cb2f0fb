"""Heads of a behaviour, before and after quantization

Heads of tiny-llama that carry induction, by attribution patching, in full precision and at 3 bits: the same eight stand
out, in another order.
"""

# %%
from picture import axes, save

import hardy
from hardy import interp
from hardy.quant import RoundToNearest

model, tokenizer = hardy.zoo.load("tiny-llama")
task = interp.prompts.induction(range(300, 1200), n=8, length=6)
before = interp.locate(model, task, object="head", by="attribution-patching")
with RoundToNearest(bits=3).apply(model):
    after = interp.locate(model, task, object="head", by="attribution-patching")
agreement = before.agreement(after).spearman
print(f"rank correlation {agreement:.2f}; before {before.top(3)}, after {after.top(3)}")

# %%
figure, ax = axes(4.6, 4.2)
names = list(before.scores)
ax.plot([before.scores[name] for name in names], [after.scores[name] for name in names], "o", color="#0072b2")
(name,) = before.top(1)
place = (before.scores[name], after.scores[name])
ax.annotate(name, place, textcoords="offset points", xytext=(-8, -3), ha="right", fontsize=8)
ax.set(xlabel="score, float32", ylabel="score, 3 bits", title=f"heads; rank correlation {agreement:.2f}")
save("circuit_on_few_bits", figure)
