"""Quantize a model whose weights stay in their file: one block is in memory at a time, and on disk again when done.

A model that `transformers` reads in its stored dtype takes no memory for its weights: they are pages of the file. A
block is cast to the dtype that is computed in, quantized, packed, written, and read back in the same way. The states
between blocks are all that a stopped run needs to go on, beside what it has written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy.artefacts.packing import PackedLayer, packed, put, tied
from hardy.core.method import WeightLedger, squared_norm
from hardy.core.selection import Site, select
from hardy.core.surgery import Edits, weight_of
from hardy.evaluate.language import token_losses
from hardy.files import write_atomic
from hardy.hooks.block_inputs import BlockInputs, block_inputs, block_of
from hardy.ops.plane_layout import row_ranges
from hardy.quant.calibrated import CalibratedQuantizer, OutputError, output_rows
from hardy.quant.gram import count_calls
from hardy.quant.packed_embedding import PackedEmbedding, PackedHead, scale_of, tables
from hardy.quant.quantizer import Quantizer
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.reading import reading
from hardy.report import Row
from hardy.runs.progress import progress


def chain_of(model: nn.Module, sites: Sequence[Site], batch: Any) -> list[str]:
    """The blocks of `model`, if they make a chain and hold all of `sites`; none otherwise. See `BlockInputs`."""
    found = block_inputs(model, [batch], [site.module for site in sites])
    return found.blocks if found and all(block_of(site.module) in found.blocks for site in sites) else []


@dataclasses.dataclass
class Done:
    """What a run has behind it.

    Attributes:
        at: so many blocks are quantized and written.
        states: of each calibration batch what the next block is given; none without calibration, or at the beginning.
        unmodified: likewise, what the unmodified model gives; none without a correction.
        entries: the account of `WeightLedger`.
        outputs: what was done to outputs, of calibrated methods.
    """

    at: int = 0
    states: list[torch.Tensor] = dataclasses.field(default_factory=list)
    unmodified: list[torch.Tensor] = dataclasses.field(default_factory=list)
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    outputs: list[OutputError] = dataclasses.field(default_factory=list)

    def rows(self) -> list[Row]:
        """The account of it, as methods give it."""
        rows = WeightLedger(nn.Module(), Edits(nn.Module()), self.entries).rows()
        return rows + (output_rows(self.outputs) if self.outputs else [])

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for a checkpoint."""
        return {**vars(self), "outputs": [list(each) for each in self.outputs]}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Done:
        return cls(**{**kept, "outputs": [OutputError(*each) for each in kept["outputs"]]})


class BlockByBlock:
    """A model, its blocks in a file each, and how it is computed with.

    Args:
        model: in evaluation mode, in its stored dtypes, on the CPU.
        blocks: of `chain_of`.
        folder: for the blocks' files.
        dtype: to compute in.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], folder: Path, dtype: torch.dtype) -> None:
        self.model, self.blocks, self.folder, self.dtype = model, list(blocks), folder, dtype
        self._dense: dict[str, nn.Module] = {}
        """What the packed layers stand for, as it was read."""

    def quantize(self, method: Quantizer, batches: Sequence[Any], done: Done, keep: Callable[[Done], object]) -> Done:
        """Quantize and pack the blocks from `done.at` on, one after the other.

        Args:
            method: what to do where.
            batches: to calibrate on; not used by methods that need no data.
            done: what an earlier run has behind it, whose files are in the folder.
            keep: called after each block.

        Raises:
            InputError: as the method's `apply`.
        """
        sites = select(self.model, method.select, layers=method.layers)
        here = {block: [site for site in sites if block_of(site.module) == block] for block in self.blocks}
        for index in range(done.at):
            self._read_back(index)
        calibrated = method if isinstance(method, CalibratedQuantizer) else None
        inputs = BlockInputs(self.model, batches if calibrated else (), self.blocks, done.states, done.at)
        corrected = batches if calibrated and calibrated.correction else ()
        unmodified = BlockInputs(self.model, corrected, self.blocks, done.unmodified, done.at)
        title = f"{type(method).__name__}, block by block"
        with progress(title, len(self.blocks), done=done.at) as bar, self._outside():
            for index in range(done.at, len(self.blocks)):
                block = self.blocks[index]
                dtypes = {name: p.dtype for name, p in self.model.named_parameters() if name.startswith(f"{block}.")}
                with self._working(block):
                    ledger = WeightLedger(self.model, Edits(self.model), done.entries)
                    if calibrated:
                        done.outputs += self._fit(calibrated, ledger, here[block], inputs, unmodified)
                    else:
                        for site in here[block]:
                            weight = ledger.read(site)
                            method.check_row(site, weight)
                            stored, facts = method.stored(weight, site)
                            ledger.write(site, weight, stored.dequantize(), facts)
                            ledger.edits.store(site, stored)
                    done.entries = ledger.entries
                    if calibrated:
                        inputs.step()
                        done.states = [state for state in inputs.states if state is not None]
                        done.unmodified = [state for state in unmodified.states if state is not None]
                    self._write(index, ledger.edits, here[block], dtypes)
                    ledger.edits.undo()  # the packed layers come from the file
                self._read_back(index)
                done.at = index + 1
                keep(done)
                bar.advance()
        return done

    def _fit(
        self,
        method: CalibratedQuantizer,
        ledger: WeightLedger,
        sites: list[Site],
        inputs: BlockInputs,
        unmodified: BlockInputs,
    ) -> list[OutputError]:
        wanted = method.wanted(self.model, sites, unmodified, inputs.at) if unmodified.batches else {}
        if not sites:
            return []
        for site in sites:
            method.check_row(site, ledger.read(site))
        with inputs.before(inputs.at, stop=True) as reaching:
            calls = count_calls(self.model, reaching[0], sites)
            return method.fit_layer(self.model, ledger, sites, reaching, wanted, calls)

    def _file(self, index: int) -> Path:
        return self.folder / f"block-{index:05d}.safetensors"

    def _write(self, index: int, edits: Edits, sites: Sequence[Site], dtypes: Mapping[str, torch.dtype]) -> None:
        """The packed layers of a block, and what is quantized and has no packed layer, in its stored dtype."""
        forms: dict[str, list[tuple[Site, Any]]] = {}
        for site in sites:
            if site.name in edits.stored:
                forms.setdefault(site.module, []).append((site, edits.stored[site.name]))
        described, tensors = {}, {}
        for name, stored in forms.items():
            layer = packed(self.model.get_submodule(name), stored)
            if layer is not None:
                described[name] = {"layer": layer.id, **layer.describe()}
                for key, value in layer.state_dict().items():
                    kept = value.to(dtypes[f"{name}.{key}"]) if f"{name}.{key}" in dtypes else value  # a bias
                    tensors[f"{name}.{key}"] = kept.contiguous()
                continue
            for parameter in {f"{name}.{site.parameter}" for site, _ in stored}:
                tensors[parameter] = self.model.get_parameter(parameter).detach().to(dtypes[parameter])
        metadata = {"packed": json.dumps(described)}
        write_atomic(self._file(index), lambda temporary: save_file(tensors, temporary, metadata))

    def _read_back(self, index: int) -> None:
        """Put the block as it was written into the model: pages of its file, which take no memory."""
        with reading(self._file(index)), safe_open(self._file(index), "pt") as file:
            described = json.loads(file.metadata()["packed"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        for name, entry in described.items():
            settings, dense = dict(entry), self._dense.setdefault(name, self.model.get_submodule(name))
            layer: Any = PackedLayer.registry.find(settings.pop("layer")).from_description(dense, settings)
            own = [key for key in tensors if key.startswith(f"{name}.")]
            layer.load_state_dict({key.removeprefix(f"{name}."): tensors.pop(key) for key in own}, assign=True)
            put(self.model, name, layer.train(dense.training))
        for name, tensor in tensors.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))

    @torch.no_grad()
    def losses(self, windows: Sequence[torch.Tensor], title: str) -> float:
        """Mean cross-entropy in nats per token of `windows` (tokens,), all but the first of each, block by block."""
        model: Any = self.model
        inputs = BlockInputs(model, [ids[None] for ids in windows], self.blocks)
        last = len(self.blocks) - 1
        with progress(title, len(self.blocks)) as bar, self._outside():
            for block in self.blocks[:-1]:
                with self._working(block):
                    inputs.step()
                bar.advance()
            with self._working(self.blocks[last]), inputs.before(last) as reaching:
                found = [token_losses(model, ids, window=len(ids)) for ids, _ in zip(windows, reaching, strict=True)]
            bar.advance()
        return torch.cat(found).double().mean().item()

    @contextlib.contextmanager
    def _working(self, block: str) -> Iterator[None]:
        """The parameters of a block in the dtype that is computed in; afterwards all of it is pages of files again."""
        whole = self.model.get_submodule(block)
        with _cast(whole.parameters(), self.dtype):
            yield
        if any(isinstance(layer, PackedLayer) for layer in whole.modules()):  # they made another form to compute with
            self._read_back(self.blocks.index(block))

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        """What is outside of the blocks computes in `dtype` too: the tables piece by piece, the rest cast."""
        with contextlib.ExitStack() as stack:
            inside = {id(p) for block in self.blocks for p in self.model.get_submodule(block).parameters()}
            for name in tables(self.model):
                module: Any = self.model.get_submodule(name)
                if isinstance(module, PackedEmbedding):
                    like, module.like = module.like, module.like.to(self.dtype)
                    stack.callback(setattr, module, "like", like)
                elif not isinstance(module, PackedLayer) and (forward := _piecewise(module, self.dtype)) is not None:
                    inside.add(id(module.weight))
                    module.forward = forward
                    stack.callback(delattr, module, "forward")
            rest = [p for p in self.model.parameters() if id(p) not in inside]
            stack.enter_context(_cast(rest, self.dtype))
            yield


def pack_tables(model: nn.Module, method: RoundToNearest) -> list[dict[str, Any]]:
    """Put packed layers in the place of the input embedding and the head of `model`, piece by piece.

    Returns:
        The account of it, as entries of `WeightLedger`; a table that no packed layer can stand for is left alone.
    """
    entries = []
    for name, module in [(name, model.get_submodule(name)) for name in tables(model)]:
        if model.get_submodule(name) is not module:
            continue  # the head that came along with its embedding
        site = Site(name, name, "weight", None, None, None)
        weight = weight_of(model, site)
        pieces, error, energy, facts = [], 0.0, 0.0, dict[str, float]()
        for begin, end in row_ranges(*weight.shape):
            rows = weight[begin:end].float()
            grid, found = method.quantize(rows, site)
            pieces.append(grid)
            error, energy = error + squared_norm(grid.dequantize(), minus=rows), energy + squared_norm(rows)
            facts |= {key: facts.get(key, 0.0) + value for key, value in found.items()}
        layer = packed(module, [(site, pieces[0].joined(pieces[1:]))])
        if layer is None:
            continue
        for place, part in {name: layer, **tied(model, module, name, layer)}.items():
            put(model, place, part)
        entries.append({"site": name, "size": weight.numel(), "error": error, "energy": energy, "facts": facts})
    if any(isinstance(layer, PackedHead) for layer in model.modules()):
        whole: Any = model
        whole.config.tie_word_embeddings = False  # the packed ones are, and nothing else is to be
    return entries


def _piecewise(module: Any, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The forward of an embedding or a linear layer in `dtype`, of a weight that stays as it is stored; or None."""
    if (scale := scale_of(module)) is not None:

        def look_up(ids: torch.Tensor) -> torch.Tensor:
            found = nn.functional.embedding(ids, module.weight).to(dtype)
            return found if scale == 1 else found * torch.tensor(scale, dtype=dtype)

        return look_up
    if not isinstance(module, nn.Linear):
        return None

    def product(x: torch.Tensor) -> torch.Tensor:
        ranges = row_ranges(*module.weight.shape)
        y = torch.cat([x @ module.weight[begin:end].to(x.dtype).T for begin, end in ranges], -1)
        return y if module.bias is None else y + module.bias.to(y.dtype)

    return product


@contextlib.contextmanager
def _cast(parameters: Any, dtype: torch.dtype) -> Iterator[None]:
    held = [(p, p.data) for p in parameters if p.is_floating_point() and p.dtype != dtype]
    for parameter, values in held:
        parameter.data = values.to(dtype)
    try:
        yield
    finally:
        for parameter, values in held:
            parameter.data = values
