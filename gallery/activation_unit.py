"""An activation unit's waveform

The quadratic wave as hardware, simulated cycle by cycle: one result a cycle after three cycles of latency, equal to its
integer reference in every bit, and within half a last place of the wave.
"""

# %%
import numpy as np
from picture import axes, save

from hardy.rtl import Format, design
from hardy.rtl.simulation import simulate

unit = design("quad", Format(bits=10, fraction=6))
codes = np.arange(-512, 512)
found = simulate(unit.pipeline(), codes)["y"]
assert (found == unit.reference(codes)["y"]).all()
print(f"{unit.pipeline().latency} cycles, error {unit.error(codes):.2f} of a last place")

# %%
x = codes / 64
p = (x + 2) % 4 - 2
wave = p * (2 - np.abs(p))
figure, (top, bottom) = axes(8, 3, columns=2)
top.step(x, found / 64, where="mid", color="#0072b2", label="unit")
top.plot(x, wave, "--", color="#6e7781", lw=1, label="quadratic wave")
top.set(xlabel="phase", ylabel="output", xlim=(-2, 2))
top.legend(frameon=False, fontsize=8, loc="upper left")
bottom.plot(x, found - 64 * wave, ",", color="#d55e00")
bottom.set(xlabel="phase", ylabel="error [last places]", ylim=(-0.6, 0.6))
save("activation_unit", figure)
