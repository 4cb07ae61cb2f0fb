"""A picture in few bytes

A crop of a photograph in as many bytes as JPEG takes at quality 15: the original, JPEG 4:4:4 (optimized), and latents,
whose decoder is sums and products of integers. The photograph is one of the two that the codec learned from.
"""

# %%
import io

import numpy as np
from picture import axes, save
from PIL import Image

from hardy.fields import image, sample_photo
from hardy.fields.codec import decode
from hardy.fields.container import Contents, unpacked
from hardy.fields.latent_codec import encode_latents

photo = sample_photo("china")
pixels = ((photo.arranged().numpy() + 1) * 127.5).round().astype(np.uint8)
buffer = io.BytesIO()
Image.fromarray(pixels).save(buffer, "JPEG", quality=15, optimize=True, subsampling=0)
with Image.open(buffer) as opened:
    jpeg = np.asarray(opened)

# %% Not one byte more
size = len(buffer.getvalue())
result = encode_latents(
    photo, Contents(kind="image", grids=(pixels.shape[:2],)), bits_per_point=8 * size / pixels[..., 0].size
)
(field,), contents = unpacked(result.data)
latents = decode(field, contents.grids[0])
figure, places = axes(9, 3.2, columns=3)
for ax, shown, title in zip(
    places,
    (pixels, jpeg, latents),
    (
        "original",
        f"JPEG, {size} bytes, {image(jpeg).psnr(photo.values):.2f} dB",
        f"latents, {len(result.data)} bytes, {result.psnr[0]:.2f} dB",
    ),
    strict=True,
):
    ax.imshow(shown[150:330, 220:460])
    ax.set_title(title, fontsize=9)
    ax.axis("off")
save("picture_in_few_bytes", figure)
