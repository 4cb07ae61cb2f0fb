"""Pixels that still teach

A picture as a network, fitted on a fifth of its pixels at a time: those of the largest error (INT), which are first
everywhere and then along the edges.
"""

# %%
from picture import save

from hardy.fields import Field, Schedule, fit, sample_photo
from hardy.report.pictures import Pictures
from hardy.teach import Teacher, schedules

SIZE, STEPS = 64, 300
photo, field = sample_photo("flower", SIZE), Field(2, 3, hidden_features=48)
fifth, interval = schedules.Constant(ratio=0.2), schedules.Growing(first=1, last=50, dense=0.25)
teacher = Teacher(STEPS, selector="hard", ratio=fifth, interval=interval)

# %% What is chosen at three times, painted over the picture
shown = {}


class Watched:
    updates = STEPS
    state_dict, load_state_dict = teacher.state_dict, teacher.load_state_dict

    def choose(self, examples):
        ids = teacher.choose(examples)
        if teacher.time in (1, 60, STEPS):
            picture = photo.values.clone() * 0.25 + 0.75
            picture[ids] = photo.values[ids]
            shown[f"step {teacher.time}"] = ((picture.reshape(SIZE, SIZE, 3) + 1) / 2).numpy()
        return ids


result = fit(field, photo, teacher=Watched(), schedule=Schedule(steps=STEPS, check_every=STEPS))
shown[f"fitted, {result.psnr:.1f} dB"] = ((field.render((SIZE, SIZE)).clamp(-1, 1) + 1) / 2).numpy()
print(f"{result.psnr:.1f} dB in {result.seconds:.1f} s, {teacher.seconds / result.seconds:.0%} of it choosing")

# %%
caption = "Pixels that a step sees, in colour, and the picture that comes of it."
save("taught_points", Pictures.of("Pixels that still teach", caption, ("",), tuple(shown), [list(shown.values())]))
