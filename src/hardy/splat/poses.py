"""Camera poses for photos that have none: COLMAP's structure from motion, through pycolmap.

"Structure-from-Motion Revisited" (Schoenberger and Frahm 2016): SIFT features, matches verified by geometry, one
camera after the other.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

from hardy import checks
from hardy.errors import InputError, install
from hardy.files import write_atomic
from hardy.splat import colmap
from hardy.splat.photos import SUFFIXES, photo_size

Matching = Literal["exhaustive", "sequential"]
_LEAST = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registration:
    """What became of the photos.

    Args:
        registered: names of those that got a pose.
        left_out: names of those that did not.
        points: how many were found.
        error: mean distance between points in the photos and where they should be, in pixels.
    """

    registered: tuple[str, ...]
    left_out: tuple[str, ...]
    points: int
    error: float


def find_poses(
    photos: str | Path,
    out: str | Path,
    *,
    matching: Matching = "exhaustive",
    least_share: float = 0.5,
    seed: int = 0,
) -> Registration:
    """Find poses for a folder of photos and write a scene that `load_scene(out)` reads.

    Photos of one size are taken to be from one camera; lenses are modelled with one radial coefficient.

    Args:
        photos: folder of photos; may be `out`/images.
        out: gets `images/`, with copies of all photos, and the largest model in `sparse/0/`.
        matching: "exhaustive", every photo with every other; "sequential", with its neighbours by name, for film.
        least_share: of the photos that must get a pose, and at least 3 of them.
        seed: of the search; the result still depends on the number of threads.

    Raises:
        InputError: pycolmap is not installed, there are too few photos, one cannot be read, `out` holds a model
            already, or too few photos get a pose.
    """
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"finding poses needs pycolmap: {install('poses')}") from None
    photos, out = Path(photos), Path(out)
    if not photos.is_dir():
        raise InputError(f"there is no folder of photos {photos}")
    checks.one_of("matching", matching, get_args(Matching))
    checks.number("least_share", least_share, at_least=0, at_most=1)
    if out.is_dir() and colmap.model_folder(out) is not None:
        raise InputError(f"{out} holds a COLMAP model already; choose another folder")
    files = sorted(file for file in photos.iterdir() if file.suffix.lower() in SUFFIXES)
    if len(files) < _LEAST:
        kinds = ", ".join(SUFFIXES)
        raise InputError(f"poses need at least {_LEAST} photos, and {photos} has {len(files)} (of {kinds})")
    names = [file.name for file in files]
    one_size = len({photo_size(file) for file in files}) == 1
    pycolmap.logging.minloglevel = 3  # only what ends the program
    pycolmap.logging.logtostderr = False
    pycolmap.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        best = _model(pycolmap, photos, names, Path(folder), matching, one_size)
        registered = {image.name for image in best.images.values() if image.has_pose} if best is not None else set()
        left_out = tuple(name for name in names if name not in registered)
        if best is None or len(registered) < max(_LEAST, least_share * len(names)):
            shown = ", ".join(left_out[:10]) + (f" and {len(left_out) - 10} more" if len(left_out) > 10 else "")
            raise InputError(
                f"only {len(registered)} of the {len(names)} photos got a pose; without one are {shown}. Photos must "
                "overlap by more than half, be sharp, and be taken from different places"
            )
        written = Path(folder) / "model"
        written.mkdir()
        best.write_binary(str(written))
        for file in files:
            if not (out / "images" / file.name).is_file():
                write_atomic(out / "images" / file.name, lambda path, taken=file: shutil.copyfile(taken, path))
        for file in sorted(written.iterdir()):
            write_atomic(out / "sparse" / "0" / file.name, lambda path, taken=file: shutil.copyfile(taken, path))
    return Registration(
        registered=tuple(name for name in names if name in registered),
        left_out=left_out,
        points=best.num_points3D(),
        error=float(best.compute_mean_reprojection_error()),
    )


def _model(
    pycolmap: Any, photos: Path, names: list[str], folder: Path, matching: Matching, one_size: bool
) -> Any | None:
    """The model with the most photos, if there is one."""
    database = folder / "database.db"
    mode = pycolmap.CameraMode.SINGLE if one_size else pycolmap.CameraMode.AUTO
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    pycolmap.extract_features(database, photos, image_names=names, camera_mode=mode, reader_options=reader)
    match = pycolmap.match_exhaustive if matching == "exhaustive" else pycolmap.match_sequential
    match(database)
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = min(_LEAST, options.min_model_size)
    (folder / "models").mkdir()
    models = pycolmap.incremental_mapping(database, photos, folder / "models", options=options)
    return max(models.values(), key=_photos_in) if models else None


def _photos_in(model: Any) -> int:
    return model.num_reg_images()
