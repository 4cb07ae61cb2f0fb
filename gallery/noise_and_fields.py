"""Weights that may be disturbed

A picture as a network whose weights get noise: trained plainly, and at weights perturbed by 5 % (RWP). Robustness costs
where there is no noise after all.
"""

# %%
from picture import axes, save

from hardy.fields import Field, WeightPerturbation, fit, robustness, sample_photo
from hardy.hardware import AdditiveNoise

photo, levels = sample_photo("china", 48), (0.01, 0.02, 0.05, 0.1)
noises = [AdditiveNoise(strength=level, relative_to="tensor-std") for level in levels]
curves = {}
for name, loss in (("plain", None), ("perturbed by 5 %", WeightPerturbation(noise=noises[2]))):
    field = Field(2, 3, hidden_features=48)
    clean = fit(field, photo, steps=300, **({} if loss is None else {"loss": loss})).psnr
    rows = [row for row in robustness(field, photo, noises, instances=5) if row.metric == "psnr"]
    curves[name] = [clean, *(row.value for row in rows[-len(levels) :])]
    print(name, [round(value, 1) for value in curves[name]])

# %%
figure, ax = axes()
for name, values in curves.items():
    ax.plot(["none", *(f"{level:.0%}" for level in levels)], values, "o-", label=name)
ax.set(xlabel="noise on the weights, of their standard deviation", ylabel="PSNR [dB]")
ax.legend(frameon=False)
save("noise_and_fields", figure)
