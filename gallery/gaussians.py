"""A scene of Gaussians

A traced room from 21 photos, trained on the CPU with two strategies from one start and the same budget; a view that
neither has seen.
"""

# %%
from picture import axes, save

from hardy.splat import evaluate, train
from hardy.splat.cameras import Camera, render_camera
from hardy.splat.room import room
from hardy.splat.strategies import global_to_local, vanilla
from hardy.splat.training import Options

scene = room(width=120, height=90, views=24, points=2000)
options = Options(steps=150, sh_degree=0)
results = {
    name: train(scene, make(options.steps, cap_max=4000), options=options)
    for name, make in (("vanilla", vanilla), ("global_to_local", global_to_local))
}

# %%
view = scene.held_out[1]
figure, places = axes(9, 2.6, columns=3)
places[0].imshow(view.image.clamp(0, 1))
places[0].set_title("held-out photo", fontsize=9)
for ax, (name, result) in zip(places[1:], results.items(), strict=True):
    psnr = evaluate(result.parameters, scene.held_out).psnr
    ax.imshow(render_camera(result.parameters, Camera(viewmat=view.viewmat, K=view.K, width=120, height=90)))
    ax.set_title(f"{name}, {psnr:.1f} dB", fontsize=9)
for ax in places:
    ax.axis("off")
save("gaussians", figure)
