"""A chip over a year

tiny-llama on phase-change memory: conductances drift, and perplexity with them, over an hour, a day, a month, a year.
The band is the standard deviation over chip instances.
"""

# %%
import numpy as np
from picture import axes, save

from hardy.studies import simulate

times = ("0", "1h", "1d", "30d", "1y")
report = simulate("tiny-llama", chip="pcm", times=times, n_seeds=3, tokens=512, window=128, workers=1)
print("\n".join(report.summary))

# %%
rows = {row.condition: row for row in report.select("perplexity")}
values = [rows[f"after {time}"] for time in times]
means, spreads = np.array([row.value for row in values]), np.array([row.spread or 0 for row in values])
figure, ax = axes()
ax.plot(times, means, "o-", color="#0072b2", label="on the chip")
ax.fill_between(times, means - spreads, means + spreads, alpha=0.2)
ax.axhline(rows["unmodified"].value, ls="--", color="#6e7781", label="not on a chip")
ax.set(xlabel="after programming", ylabel="perplexity")
ax.legend(frameon=False)
save("chip_over_a_year", figure)
