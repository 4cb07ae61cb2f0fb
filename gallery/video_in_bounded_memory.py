"""A video in bounded memory

tiny-vggt over a video of a room that it never saw, frame by frame: depths as they come, and what the session holds
beside what all keys and values would take.
"""

# %%
from picture import axes, save

from hardy.stream import KVPolicy, StreamSession
from hardy.stream.vggt import kv_bytes, tiny_vggt
from hardy.zoo.tiny_vggt import held_out

model, video = tiny_vggt(), held_out(2, frames=60)
session = StreamSession(model, KVPolicy(budget="8 frames", bits=4))
found, held = [], []
for frame in video.images:
    found.append(session.step(frame))
    held.append(session.nbytes / 1e6)
print(session.stats)

# %% Three frames with their depths, and the memory line
import numpy as np

figure, (pictures, memory) = axes(9, 3, columns=2)
shown = (0, 30, 59)
nearness = [1 / found[index].depth.numpy() for index in shown]
gray = [np.repeat((near / nearness[0].max()).clip(0, 1)[..., None], 3, 2) for near in nearness]
photos = [video.images[index].permute(1, 2, 0).numpy() for index in shown]
pictures.imshow(np.concatenate([np.concatenate(photos, 1), np.concatenate(gray, 1)]))
pictures.set_title("frames 1, 31 and 60, and their depths (near is bright)", fontsize=9)
pictures.axis("off")
frames = range(1, len(held) + 1)
memory.plot(frames, [kv_bytes(model.config, 48, 64) * count / 1e6 for count in frames], "--", color="gray")
memory.plot(frames, held)
memory.set(xlabel="frames", ylabel="MB", title="everything in 16 bits (dashed), 8 frames in 4 bits")
save("video_in_bounded_memory", figure)
