"""A repaired mixture of experts

ROMER on tiny-moe: idle experts overwritten and routers recalibrated, each step kept only if it helps. On measured cells
there is little to win, and the same repair at random hurts.
"""

# %%
from picture import axes, save

from hardy.studies import repair

report = repair("tiny-moe", by="romer", n_seeds=3, tokens=512, window=128, workers=1)
print("\n".join(report.summary))

# %%
rows = report.select("perplexity")
figure, ax = axes(6.4, 2.8)
names = [row.condition for row in rows]
colors = ["#6e7781" if "random" in name or name == "unmodified" else "#0072b2" for name in names]
ax.barh(
    names[::-1], [row.value for row in rows][::-1], xerr=[row.spread or 0 for row in rows][::-1], color=colors[::-1]
)
ax.set(xlabel="perplexity, 3 chip instances", xlim=(min(row.value for row in rows) * 0.9, None))
save("repaired_mixture", figure)
