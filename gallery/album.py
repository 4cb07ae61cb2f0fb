"""An album: many pictures, shared layers

Four pictures whose networks share their middle layers (MINR), as the album draws them, with the PSNR of each.
"""

# %%
from picture import axes, save

from hardy.fields import Quad, Schedule, SharedField, fit_shared, sample_photo
from hardy.fields.signals import Signal

wave, schedule = Quad(first_omega=19.1, hidden_omega=19.1), Schedule(steps=300)
photos: list[Signal] = [sample_photo(name, size) for name in ("flower", "china") for size in (40, 48)]
album = SharedField(4, 2, 3, hidden_features=48, shared_layers=3, activation=wave)
fit_shared(album, photos, schedule=schedule)
counts = album.parameter_counts()
print(counts)

# %%
shared = [album.field(i).psnr(photo) for i, photo in enumerate(photos)]
figure, places = axes(9, 2.8, columns=4)
for i, (ax, photo) in enumerate(zip(places, photos, strict=True)):
    size = photo.grid[0]
    ax.imshow(
        (album.field(i).render((size, photo.grid[1])).detach().clamp(-1, 1).reshape(size, photo.grid[1], 3) + 1) / 2
    )
    ax.set_title(f"{shared[i]:.1f} dB", fontsize=9)
    ax.axis("off")
save("album", figure)
