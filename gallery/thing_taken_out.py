"""A thing taken out of a scene

A block in a traced room goes, with its shadow: each photo inpainted by itself, and the Gaussians completed from all
sides, as one of their cameras sees them. What other photos show comes back; what nobody photographed is invented once.
"""

# %%
from picture import axes, save

from hardy.splat import inpaint
from hardy.splat.inpainters import PatchMatch
from hardy.splat.strategies import vanilla
from hardy.splat.traced_removal import removable
from hardy.splat.training import Options
from hardy.splat.warping import rendered

room = removable("block", width=88, height=66, views=18, points=2000)
found = inpaint(
    room.scene,
    room.masks,
    shadows=room.shadows,
    inpainter=PatchMatch(),
    rounds=2,
    steps=700,
    round_steps=200,
    growth=0,
    strategy=vanilla(700, cap_max=3500),
    options=Options(sh_degree=1),
)

# %% The view with the largest hole
i = max(range(len(room.holes)), key=lambda i: int(room.holes[i].sum()))
photo = room.scene.views[i].image
alone = PatchMatch()(photo, room.holes[i])[0]
completed = rendered(found.training.parameters, room.truth[i]).image
figure, places = axes(11, 2.4, columns=4)
shown = (photo, alone, completed, room.truth[i].image)
titles = ("photo", "inpainted by itself", "completed from all sides", "truth")
for ax, image, title in zip(places, shown, titles, strict=True):
    ax.imshow(image.clamp(0, 1).numpy())
    ax.set_title(title, fontsize=9)
    ax.axis("off")
save("thing_taken_out", figure)
