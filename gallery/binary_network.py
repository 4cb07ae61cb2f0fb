"""A binary CNN

Filters of a network that reads handwritten digits, and the same filters when each weight is one of two values of its
channel; and how many digits are read right by the bits of the activations between such layers, after a short training.
"""

# %%
import torch
from picture import axes, save
from torch.nn.functional import cross_entropy

from hardy.quant import Annealing, BinaryWeights
from hardy.zoo import digits, tiny_cnn

data = digits.digits()


def right(model: torch.nn.Module) -> float:
    return 100 * digits.accuracy(model, data["x_test"], data["y_test"])


# %% Train binary weights, from those of the float network
def binary(bits: int, steps: int = 150) -> torch.nn.Module:
    model = tiny_cnn()
    BinaryWeights(activation_bits=bits).apply(model, [data["x_train"][:256]])
    optimizer, annealing = torch.optim.Adam(model.parameters(), lr=2e-3), Annealing(model, steps=steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for step in range(steps):
        x, y = digits.batch(data, seed=0, step=step)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        annealing.step()
        schedule.step()
    return model.eval()


models = {bits: binary(bits) for bits in (1, 2, 4, 8)}
accuracy = {bits: right(model) for bits, model in models.items()}
print(accuracy)

# %%
filters = (tiny_cnn().conv2.weight, models[4].conv2.rounded_weight())
figure, (*places, ax) = axes(9, 3.1, columns=3)
for place, weight, title in zip(places, filters, ("float", "two values a channel"), strict=True):
    grid = weight.detach()[:8, :8]  # (out, in, 3, 3)
    grid = torch.nn.functional.pad(grid / grid.abs().amax((1, 2, 3), keepdim=True), (0, 1, 0, 1), value=torch.nan)
    place.imshow(grid.permute(0, 2, 1, 3).reshape(32, 32)[:-1, :-1], cmap="RdBu", vmin=-1, vmax=1)
    place.set_title(f"filters of a layer: {title}", fontsize=9)
    place.axis("off")
ax.plot([str(bits) for bits in accuracy], list(accuracy.values()), "o-", color="#0072b2", label="binary weights")
ax.axhline(right(tiny_cnn()), ls="--", color="#6e7781", lw=1, label="float")
ax.set(xlabel="bits of the activations", ylabel="digits read right [%]")
ax.legend(frameon=False, fontsize=8, loc="lower right")
save("binary_network", figure)
