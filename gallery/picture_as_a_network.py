"""A picture as a network

A small multilayer perceptron is the picture, and can be drawn at any size: here four times as large as what it was
fitted to.
"""

# %%
from picture import axes, save

from hardy.fields import Field, Quad, Schedule, fit, sample_photo

photo = sample_photo("flower", 64)
field = Field(2, 3, hidden_features=64, hidden_layers=3, activation=Quad(first_omega=19.1, hidden_omega=19.1))
result = fit(field, photo, schedule=Schedule(steps=300))
parameters = sum(p.numel() for p in field.parameters())
print(f"{result.psnr:.1f} dB with {parameters} parameters")

# %% Values are in [-1, 1]
small, large = (field.render((size, size)).detach().clamp(-1, 1).reshape(size, size, 3) for size in (64, 256))
fitted = photo.values.reshape(64, 64, 3)
figure, places = axes(9, 3.2, columns=3)
for ax, image, title in zip(
    places,
    (fitted, small, large),
    ("64 x 64", f"the network, {result.psnr:.1f} dB", "the same network at 256 x 256"),
    strict=True,
):
    ax.imshow((image.numpy() + 1) / 2)
    ax.set_title(title, fontsize=9)
    ax.axis("off")
save("picture_as_a_network", figure)
