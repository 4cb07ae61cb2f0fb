"""What the fuzzer attacks: of every kind of file that hardy reads, how a right one is made, and who reads it."""

import dataclasses
import functools
import gzip
import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.io import wavfile
from torch import nn

import hardy
from benchmarks.harness import FOLDER
from hardy.core import Ranking
from hardy.fields import signals
from hardy.fields.codec import decode
from hardy.fields.container import checksum, load_fields
from hardy.fields.high_range import light
from hardy.fields.media import load_media
from hardy.files import write_json
from hardy.hardware import Chip
from hardy.interp import SAE, Directions, TaskVectors, write_task_vector
from hardy.interp.control_vectors import write_control_vector
from hardy.interp.task import Example, read_examples, write_examples
from hardy.interp.vectors import read_pairs
from hardy.opening import read_method
from hardy.report import Report, Row
from hardy.rtl.tools import cell_library
from hardy.runs.checkpoint import Checkpoint, digest
from hardy.runs.study import Study
from hardy.splat import load_ply, load_scene, save_ply
from hardy.splat.formats import load_gaussians, save_gaussians
from hardy.splat.training import CHECKPOINT, KIND, Training
from hardy.stream import StreamSession
from hardy.stream.frames import Frames
from hardy.stream.recording import Recording
from hardy.studies.binarize import network_of
from hardy.studies.images import read_images
from hardy.studies.tasks import read_tasks
from hardy.teach.graphs import read as read_graphs
from hardy.zoo import load as load_model
from hardy.zoo.loading import WEIGHTS
from hardy.zoo.text import read_text
from hardy.zoo.vggt import VGGT, VGGTConfig
from hardy.zoo.vggt.loading import load_vggt, save_vggt

DATA = FOLDER.parent / "tests" / "data"
CASES, OF_QUICK, OF_SLOW, OF_MODELS = 10_000, 66_000, 3_000, 500
"""Of a format in the long run; of one that is read in under a millisecond, in over ten, of one that is a model:
about as long for each, and a million in all."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file: how a right one is made, which of its files are changed, who reads it, and in how many cases."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    fit: Callable[[bytes], bytes] = lambda data: data
    after: Callable[[Path], object] = lambda folder: None
    cases: int = CASES


# ---- right files


def _copied(name: str) -> Callable[[Path], object]:
    source = DATA / name
    return lambda folder: shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)


def _pixels(path: Path) -> None:
    """What a file of latents shows: most of what is in it is looked at by decoding alone."""
    fields, contents = load_fields(path)
    for field, grid in zip(fields, contents.grids, strict=True):
        samples = decode(field, grid)
        if contents.stops is not None:
            light(samples, contents.stops)


def _chip_csv(folder: Path) -> None:
    rising = [(level, level + 0.1, 0.3) for level in range(0, 40, 5)]
    (folder / "chip.csv").write_text("level,mean,std\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rising))


def _photos(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((6, 8, 3), 100, np.uint8)).save(folder / name)


def _transforms(folder: Path) -> None:
    _photos(folder, ("a.png", "b.png"))
    pose = [[1.0, 0, 0, 0.5], [0, 1.0, 0, 0], [0, 0, 1.0, 2], [0, 0, 0, 1]]
    frames = [{"file_path": name, "transform_matrix": pose} for name in ("a.png", "b.png")]
    facts = {"camera_model": "OPENCV", "fl_x": 9.0, "w": 8, "h": 6, "k1": 0.01, "ply_file_path": "cloud.ply"}
    (folder / "transforms.json").write_text(json.dumps({**facts, "frames": frames}))
    _ascii_ply(folder, "cloud.ply", ("x", "y", "z"))


def _colmap(folder: Path) -> None:
    _photos(folder / "images", ("a.png", "b.png"))
    (folder / "cameras.txt").write_text("# cameras\n1 PINHOLE 8 6 9.0 9.0 4 3\n2 OPENCV 8 6 9 9 4 3 0.1 0 0 0\n")
    (folder / "images.txt").write_text("1 1 0 0 0 0 0 2 1 a.png\n1 2 3\n2 1 0 0 0 0.5 0 2 2 b.png\n\n")
    (folder / "points3D.txt").write_text("1 0 0 1 255 0 0 0.1\n2 0.5 0 1 0 255 0 0.1\n")


def _colmap_binary(folder: Path) -> None:
    _photos(folder / "images", ("a.png",))
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 8, 6, 9, 9, 4, 3))
    (folder / "images.bin").write_bytes(struct.pack("<Qi7di6sQ", 1, 1, 1, 0, 0, 0, 0, 0, 2, 1, b"a.png\0", 0))
    (folder / "points3D.bin").write_bytes(struct.pack("<QQ3d3BdQ", 1, 1, 0, 0, 1, 9, 9, 9, 0.1, 0))


def _ascii_ply(folder: Path, name: str = "gaussians.ply", columns: tuple[str, ...] = ()) -> None:
    columns = columns or (
        "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
        "rot_0", "rot_1", "rot_2", "rot_3",
    )  # fmt: skip
    head = "".join(f"property float {column}\n" for column in columns)
    body = "".join(" ".join(["0.5"] * len(columns)) + "\n" for _ in range(3))
    (folder / name).write_text(f"ply\nformat ascii 1.0\nelement vertex 3\n{head}end_header\n{body}")


def _ply(folder: Path) -> None:
    _ascii_ply(folder, "start.ply")
    save_ply(load_ply(folder / "start.ply"), folder / "gaussians.ply")


def _checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "run.safetensors", kind="run", identity={"seed": 0, "rate": 0.5})


def _study(folder: Path) -> Study:
    return Study(name="fuzz", run=_figure, settings={"size": 3, "rate": 0.5}, out=folder / "study")


def _figure(subject: Any, arguments: Any, seed: int) -> dict[str, float]:
    return {"loss": 1.0}


def _report(folder: Path) -> None:
    Report(title="fuzz", rows=[Row(metric="loss", condition="a", value=1.5, spread=0.1, n=2, seeds=(0, 1))],
           settings={"x": [1, 2.5, "y"]}).save(folder)  # fmt: skip


def _programmed(path: Path) -> None:
    """A chip that was read must also program: what it makes of a small matrix is finite."""
    made = Chip.named(str(path)).without_periphery().program(torch.eye(4) - 0.3, seed=0, site="layer")
    if not made.isfinite().all():
        raise AssertionError("conductances are not finite")


def _pyg_folder(folder: Path) -> None:
    from torch_geometric.data import Data, InMemoryDataset

    (folder / "set" / "processed").mkdir(parents=True)
    graph = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([1]))
    whole, slices = InMemoryDataset.collate([graph, graph])
    torch.save((whole, slices), folder / "set" / "processed" / "data.pt")


def _model(folder: Path) -> None:
    _copied("plain-0.1")(folder)
    (folder / "plain-0.1" / "hardy.json").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS / "tiny-llama" / name, folder / "plain-0.1")


def _gguf(folder: Path) -> None:
    """The same model as a file of llama.cpp, whose layout of queries and keys does not matter here."""
    import gguf

    _model(folder)
    model, tokenizer = load_model(folder / "plain-0.1")
    config: Any = model.config
    shutil.rmtree(folder / "plain-0.1")
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), "llama")
    for name, value in {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads, "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps, "rope_freq_base": config.rope_parameters["rope_theta"],
        "vocab_size": config.vocab_size,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)[: config.vocab_size]
    words[-2:] = words[5] + words[6], words[6] + words[7]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(
        [f"{words[5]} {words[6]}", f"{words[6]} {words[7]}"]
    )  # transformers 5.12 misreads a single one
    names = {"model.": "", "layers.": "blk.", "embed_tokens": "token_embd", "input_layernorm": "attn_norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "lm_head": "output", "self_attn.o_proj": "attn_output"}
    names |= {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"}
    names |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        writer.add_tensor("output_norm.weight" if name == "norm.weight" else name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rotated(folder: Path) -> None:
    """A model of both kinds of packed layers, whose inputs are turned."""
    from hardy.quant import Pack, RoundToNearest, TritPlanes

    _copied("plain-0.1")(folder)
    model = hardy.load(folder / "plain-0.1")
    TritPlanes(select="attention", group_size=8, rotation=8).apply(model)
    RoundToNearest(select="mlp", group_size=8, bits=3, rotation=8).apply(model)
    Pack().apply(model)
    hardy.save(model, folder / "rotated")
    shutil.rmtree(folder / "plain-0.1")


def _binary(folder: Path) -> None:
    """A network of binary weights, packed."""
    from hardy.quant import BinaryWeights, Pack

    network = _network()
    BinaryWeights().apply(network)
    network(torch.rand(16, 8))  # from which the steps of its activations are
    Pack().apply(network.eval())
    hardy.save(network, folder / "binary")


def _network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def _gaussians(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_gaussians(load_ply(DATA / "gaussians-0.1.ply"), folder / name)

    return make


def _spz_unpacked(folder: Path) -> None:
    _gaussians("g.spz")(folder)
    (folder / "g.raw").write_bytes(gzip.decompress((folder / "g.spz").read_bytes()))


def _sog_unpacked(folder: Path) -> None:
    """Four Gaussians as PlayCanvas has them: a picture for each part, and what its values stand for."""
    names = ("means_l", "means_u", "quats", "scales", "sh0", "shN_labels")
    pictures = {name: np.full((2, 2, 4), 100, np.uint8) for name in names}
    pictures["quats"][..., 3], pictures["shN_labels"][:] = 252, 0
    pictures["shN_centroids"] = np.full((1, 64 * 3, 4), 100, np.uint8)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.webp", lossless=True, exact=True)
    book = [round(value, 3) for value in np.linspace(-3, 1, 256).tolist()]

    def part(*names: str, **more: Any) -> dict[str, Any]:
        return {"files": [f"{name}.webp" for name in names], **more}

    meta = {
        "version": 2, "count": 4, "means": part("means_l", "means_u", mins=[-1, -1, -1], maxs=[1, 1, 1]),
        "scales": part("scales", codebook=book), "quats": part("quats"), "sh0": part("sh0", codebook=book),
        "shN": part("shN_centroids", "shN_labels", codebook=book, count=2, bands=1),
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    _packed_sog(folder)


def _packed_sog(folder: Path) -> None:
    with zipfile.ZipFile(folder / "g.sog", "w") as packed:
        for file in (*folder.glob("*.webp"), folder / "meta.json"):
            packed.write(file, file.name)


def _sog(folder: Path) -> None:
    _sog_unpacked(folder)
    for file in (*folder.glob("*.webp"), folder / "meta.json"):
        file.unlink()


def _splat_training(folder: Path) -> None:
    parameters: dict[str, Any] = dict(load_ply(DATA / "gaussians-0.1.ply"))
    moments = {name: {"step": torch.tensor(3.0), "exp_avg": value * 0} for name, value in parameters.items()}
    record = {"step": 3, "seconds": 0.5, "pairs": 12, "history": [{"step": 3, "psnr": 20.0}]}
    state = {"params": parameters, "moments": moments, "state": {"grad": torch.zeros(3)}, "record": record}
    Checkpoint(folder / CHECKPOINT, kind=KIND, identity={"seed": 0}).save(state)


def _split(folder: Path) -> None:
    _photos(folder / "train", ("r_0.png",))
    frame = {"file_path": "./train/r_0", "transform_matrix": [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]}
    for part in ("train", "test"):
        (folder / f"transforms_{part}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": [frame]}))


def _scene_with_mask(folder: Path) -> None:
    _transforms(folder)
    (folder / "masks").mkdir()
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "masks" / "a.png")


def _scene_in_full(folder: Path) -> None:
    for view in load_scene(folder, masks=folder / "masks").views:
        view.image.sum()


@functools.cache
def _vggt() -> VGGT:
    sizes: dict[str, Any] = {
        "image_size": 12, "patch_size": 4, "dim": 16, "heads": 2, "encoder_depth": 1, "depth": 4, "taps": (0, 1, 2, 3),
        "camera_depth": 2, "camera_heads": 2, "iterations": 3, "features": 8, "channels": (8, 8, 8, 8), "hidden": 4,
        "camera_cache": "per-iteration",
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VGGT(VGGTConfig(**sizes), scale=1.0).eval()


def _stream(folder: Path) -> None:
    session = StreamSession(_vggt())
    with torch.inference_mode():
        session.step(torch.full((3, 8, 12), 0.5))
    Checkpoint(folder / "s.safetensors", kind="stream", identity={}).save(session.state_dict())


def _stream_again(folder: Path) -> None:
    """What a run that goes on does with its file."""
    checkpoint, session = Checkpoint(folder / "s.safetensors", kind="stream", identity={}), StreamSession(_vggt())
    with torch.inference_mode():
        checkpoint.resume(session.load_state_dict)
        if session.frames:
            session.step(torch.full((3, 8, 12), 0.5))


def _recorded(folder: Path) -> None:
    (folder / "frames").mkdir()
    (folder / "images").mkdir()
    parts = {"depth": np.ones((6, 8)), "confidence": np.ones((6, 8)), "viewmat": np.eye(4), "K": np.eye(3)}
    np.savez_compressed(folder / "frames" / "000000.npz", **{k: v.astype(np.float32) for k, v in parts.items()})
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(folder / "images" / "000000.jpg")


def _film(folder: Path) -> None:
    first, *more = (Image.fromarray(np.full((6, 8, 3), 60 * n, np.uint8)) for n in range(3))
    first.save(folder / "a.gif", save_all=True, append_images=more)


def _labelled(folder: Path) -> None:
    parts = {f"{what}_{part}": values for part in ("train", "test") for what, values in
             (("x", np.full((4, 6, 6, 1), 9, np.uint8)), ("y", np.array([0, 1, 0, 1])))}  # fmt: skip
    np.savez(folder / "a.npz", **parts)


def _autoencoder(folder: Path) -> None:
    parts = [torch.ones(4, 6) * 0.3, torch.ones(6, 4) * 0.2, torch.zeros(6), torch.zeros(4)]
    SAE(*parts, "blocks.1.resid_post", "some model", k=2).save(folder / "sae")


def _task_vector(folder: Path) -> None:
    base, tuned = _network(), _network()
    with torch.no_grad():
        next(tuned.parameters()).add_(0.1)
    write_task_vector(base, tuned, folder / "v.safetensors")


def _library(folder: Path) -> None:
    text = 'library (cells) {\n  cell (NOT) { area: 3; pin(Y) { direction: output; function: "A\'"; } }\n}\n'
    (folder / "a.lib.gz").write_bytes(gzip.compress(text.encode()))


def _cells(path: Path) -> None:
    cell_library.cache_clear()
    cell_library(str(path))


def _refitted(folder: Path) -> None:
    """Digests of an artefact as its files now are."""
    record = json.loads((folder / "hardy.json").read_text())
    for name, entry in record["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "hardy.json").write_text(json.dumps(record))


def _digested(path: Path) -> None:
    """The digest of a field's weights as they now are."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        metadata = file.metadata()
    save_file(tensors, path, metadata | {"digest": digest(tensors.values())})


def _crc(data: bytes) -> bytes:
    return data[:5] + struct.pack("<I", checksum(data[4], data[9:])) + data[9:] if len(data) > 9 else data


FORMATS: dict[str, Format] = {
    "chip.json": Format(lambda f: Chip.preset("hermes").save(f / "chip.json"), lambda f: _programmed(f / "chip.json"),
                        ("chip.json",)),
    "chip.csv": Format(_chip_csv, lambda f: _programmed(f / "chip.csv"), ("chip.csv",)),
    "transforms.json": Format(_transforms, load_scene, ("transforms.json", "cloud.ply")),
    "COLMAP text": Format(_colmap, load_scene, ("cameras.txt", "images.txt", "points3D.txt")),
    "COLMAP binary": Format(_colmap_binary, load_scene, ("cameras.bin", "images.bin", "points3D.bin")),
    "PLY": Format(_ply, lambda f: load_ply(f / "gaussians.ply"), ("gaussians.ply",), cases=OF_QUICK),
    "ASCII PLY": Format(_ascii_ply, lambda f: load_ply(f / "gaussians.ply"), ("gaussians.ply",), cases=OF_QUICK),
    "report.json": Format(_report, lambda f: Report.load(f / "report.json"), ("report.json",), cases=OF_QUICK),
    "ranking.json": Format(
        lambda f: Ranking(scores={"a": 1.0, "b": 2.0}, meaning="loss", unit="nats", by="rtn").save(f / "ranking.json"),
        lambda f: Ranking.load(f / "ranking.json"), ("ranking.json",), cases=OF_QUICK),
    "method.json": Format(
        lambda f: write_json(f / "method.json", hardy.quant.RoundToNearest(bits=3).to_dict()),
        lambda f: read_method(f / "method.json"), ("method.json",)),
    "tasks": Format(
        lambda f: (f / "tasks.jsonl").write_text('{"answer": "4", "direct": "2 + 2 ="}\n' * 3),
        lambda f: read_tasks(f / "tasks.jsonl", 3), ("tasks.jsonl",), cases=OF_QUICK),
    "checkpoint": Format(
        lambda f: _checkpoint(f).save({"step": 3, "tensors": {"a": torch.ones(3)}, "pairs": {1: (2, 0.5)}}),
        lambda f: _checkpoint(f).load(), ("run.safetensors",), cases=OF_QUICK),
    "study": Format(lambda f: _study(f).open(), lambda f: _study(f).open(), ("study/study.json",), cases=OF_QUICK),
    "field": Format(_copied("field-0.1.safetensors"), lambda f: hardy.load(f / "field-0.1.safetensors"),
                    ("field-0.1.safetensors",), after=lambda f: _digested(f / "field-0.1.safetensors")),
    ".hardy": Format(_copied("field-0.1.hardy"), lambda f: load_fields(f / "field-0.1.hardy"), ("field-0.1.hardy",),
                     _crc, cases=OF_SLOW),
    ".hardy of latents": Format(_copied("latents-1.hardy"), lambda f: _pixels(f / "latents-1.hardy"),
                                ("latents-1.hardy",), _crc, cases=OF_SLOW),
    ".hardy of tiles, light": Format(_copied("latents-3.hardy"), lambda f: _pixels(f / "latents-3.hardy"),
                                     ("latents-3.hardy",), _crc, cases=OF_SLOW),
    "picture": Format(lambda f: _photos(f, ("a.png",)), lambda f: load_media(f / "a.png"), ("a.png",),
                      cases=OF_SLOW),
    "sound": Format(lambda f: wavfile.write(f / "a.wav", 8000, np.arange(-50, 50, dtype=np.int16)),
                    lambda f: load_media(f / "a.wav"), ("a.wav",)),
    "task": Format(
        lambda f: write_examples(f / "task.jsonl", [Example("2 + 2 =", right=(" 4",), wrong=(" 5",))] * 2),
        lambda f: read_examples(f / "task.jsonl"), ("task.jsonl",), cases=OF_QUICK),
    "pairs": Format(
        lambda f: (f / "pairs.jsonl").write_text('{"positive": "good", "negative": "bad"}\n' * 2),
        lambda f: read_pairs(f / "pairs.jsonl"), ("pairs.jsonl",), cases=OF_QUICK),
    "directions": Format(
        lambda f: Directions({0: torch.ones(4), 1: torch.ones(4)}).save(f / "d.safetensors"),
        lambda f: Directions.load(f / "d.safetensors"), ("d.safetensors",), cases=OF_QUICK),
    "control vector": Format(
        lambda f: write_control_vector(f / "d.gguf", {1: torch.ones(4), 2: torch.ones(4)}, "llama"),
        lambda f: Directions.load(f / "d.gguf"), ("d.gguf",), cases=OF_SLOW),
    "text": Format(
        lambda f: (f / "a.txt").write_text("naïve text\n" * 3), lambda f: read_text(f / "a.txt"), ("a.txt",),
        cases=OF_QUICK),
    "graphs": Format(
        lambda f: (f / "a.txt").write_text("2\n3 0\n0 1 1\n0 2 0 2\n1 1 1\n2 1\n0 1 1\n2 1 0\n"),
        lambda f: read_graphs(f / "a.txt"), ("a.txt",), cases=OF_SLOW),
    "molecules": Format(
        lambda f: (f / "a.csv").write_text("smiles,value\nCCO,0.5\nc1ccccc1,-1\nCC(=O)O,\n"),
        lambda f: read_graphs(f / "a.csv"), ("a.csv",), cases=OF_SLOW),
    "PyG folder": Format(
        _pyg_folder, lambda f: read_graphs(f / "set"), ("set/processed/data.pt",), cases=OF_SLOW),
    "shared field": Format(_copied("shared-0.1.safetensors"), lambda f: hardy.load(f / "shared-0.1.safetensors"),
                           ("shared-0.1.safetensors",), after=lambda f: _digested(f / "shared-0.1.safetensors")),
    "compressed PLY": Format(_gaussians("g.compressed.ply"), lambda f: load_gaussians(f / "g.compressed.ply"),
                             ("g.compressed.ply",)),
    ".splat": Format(_gaussians("g.splat"), lambda f: load_gaussians(f / "g.splat"), ("g.splat",), cases=OF_QUICK),
    ".spz": Format(_gaussians("g.spz"), lambda f: load_gaussians(f / "g.spz"), ("g.spz",)),
    ".spz, packed anew": Format(
        _spz_unpacked, lambda f: load_gaussians(f / "g.spz"), ("g.raw",),
        after=lambda f: (f / "g.spz").write_bytes(gzip.compress((f / "g.raw").read_bytes(), 1)), cases=OF_SLOW),
    "SOG": Format(_sog, lambda f: load_gaussians(f / "g.sog"), ("g.sog",), cases=OF_SLOW),
    "SOG, packed anew": Format(
        _sog_unpacked, lambda f: load_gaussians(f / "g.sog"), ("meta.json", "sh0.webp"), after=_packed_sog,
        cases=OF_SLOW),
    "training of Gaussians": Format(_splat_training, Training.load, (CHECKPOINT,)),
    "scene in parts": Format(_split, load_scene, ("transforms_train.json", "transforms_test.json")),
    "photos and masks": Format(_scene_with_mask, _scene_in_full, ("a.png", "masks/a.png"), cases=OF_SLOW),
    "stream state": Format(_stream, _stream_again, ("s.safetensors",), cases=OF_SLOW),
    "recording": Format(
        _recorded, lambda f: (Recording(f).read(0), Recording(f).picture(0)),
        ("frames/000000.npz", "images/000000.jpg")),
    "video": Format(
        _film, lambda f: (signals.video(f / "a.gif"), list(Frames(f / "a.gif").read())), ("a.gif",), cases=OF_SLOW),
    "labelled images": Format(_labelled, lambda f: read_images(f / "a.npz"), ("a.npz",)),
    "VGGT": Format(lambda f: save_vggt(_vggt(), f / "w.safetensors"), lambda f: load_vggt(f / "w.safetensors"),
                   ("w.safetensors",), cases=OF_SLOW),
    "VGGT in PyTorch's file": Format(
        lambda f: torch.save(_vggt().state_dict(), f / "w.pt"), lambda f: load_vggt(f / "w.pt", _vggt().config),
        ("w.pt",), cases=OF_MODELS),
    "autoencoder": Format(_autoencoder, lambda f: SAE.load(f / "sae"), ("sae/cfg.json", "sae/sae_weights.safetensors")),
    "task vector": Format(
        _task_vector, lambda f: TaskVectors(files=(str(f / "v.safetensors"),)).apply(_network()), ("v.safetensors",)),
    "state dict": Format(
        lambda f: save_file(_network().state_dict(), f / "w.safetensors"),
        lambda f: network_of("benchmarks.fuzz_formats:_network", f / "w.safetensors"), ("w.safetensors",)),
    "cell library": Format(_library, lambda f: _cells(f / "a.lib.gz"), ("a.lib.gz",)),
    "binary network": Format(
        _binary, lambda f: hardy.load(f / "binary", into=_network()), ("binary/hardy.json", "binary/model.safetensors"),
        after=lambda f: _refitted(f / "binary"), cases=OF_MODELS),
    "GGUF": Format(_gguf, lambda f: load_model(f / "model.gguf"), ("model.gguf",), cases=OF_MODELS),
    "artefact": Format(
        _copied("plain-0.1"), lambda f: hardy.load(f / "plain-0.1"),
        ("plain-0.1/hardy.json", "plain-0.1/config.json", "plain-0.1/model.safetensors"),
        after=lambda f: _refitted(f / "plain-0.1"), cases=OF_MODELS),
    "packed": Format(
        _copied("packed-0.1"), lambda f: hardy.load(f / "packed-0.1"),
        ("packed-0.1/hardy.json", "packed-0.1/config.json", "packed-0.1/model.safetensors"),
        after=lambda f: _refitted(f / "packed-0.1"), cases=OF_MODELS),
    "packed, rotated": Format(
        _rotated, lambda f: hardy.load(f / "rotated"),
        ("rotated/hardy.json", "rotated/config.json", "rotated/model.safetensors"),
        after=lambda f: _refitted(f / "rotated"), cases=OF_MODELS),
    "model": Format(
        _model,
        lambda f: load_model(f / "plain-0.1"),
        ("plain-0.1/config.json", "plain-0.1/model.safetensors", "plain-0.1/tokenizer.json",
         "plain-0.1/tokenizer_config.json"), cases=OF_MODELS),
}  # fmt: skip
