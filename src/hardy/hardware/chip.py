"""A crossbar chip as plain data: its cells, the size of its tiles, its converters, faults, wires and compensation.

Presets put published cells into published arrays; where a source says nothing of the periphery, ours is 8-bit
converters with the input scaled to each vector's largest value, and the docstring of `Chip.preset` says so.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from hardy import checks
from hardy.deprecation import warn_renamed
from hardy.errors import InputError, near_misses
from hardy.files import read_json, write_json
from hardy.hardware.converters import Architecture
from hardy.hardware.crossbar import program_matrix
from hardy.hardware.device import (
    AdditiveDevice,
    Device,
    FittedDevice,
    LogNormalDevice,
    ProportionalDevice,
    check_size,
    device_from_dict,
)
from hardy.hardware.flash import Sonos
from hardy.hardware.noise import AdditiveNoise, LogNormalNoise, ProportionalNoise, WeightNoise
from hardy.hardware.pcm import PCM, FoundationPCM, HermesPCM
from hardy.hardware.reram import ReramCMO, ReramWan
from hardy.hardware.table import TableDevice
from hardy.reading import reading

WeightRange = Literal["tensor", "channel", "tile"]
Compensation = Literal["none", "tensor", "channel"]
Wires = Literal["first-order", "exact"]

FORMAT, VERSION = "hardy-chip", 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of chip. A chip instance is a kind and a seed.

    Each weight is a pair of cells: `g+ = g_min + max(w, 0) * s`, `g- = g_min + max(-w, 0) * s`, with
    `s = (g_max - g_min) / range of the weight`. A matrix (out, in) is cut into tiles; the partial sums of the tiles
    along the inputs are converted one by one and added digitally.

    Args:
        device: the cells.
        tile_rows: inputs of a tile.
        tile_columns: outputs of a tile.
        cell_levels: how many conductances, equally spaced from g_min to g_max, a cell can be told to hold; None for
            any. The cells' errors come on top.
        weight_slices: how many pairs of cells share a weight. Each holds one digit of it, in base `cell_levels` and
            from the most significant, on arrays of their own, whose converted outputs are added digitally.
        weight_range: the largest magnitude of what becomes g_max: of the whole "tensor", of each output "channel", or
            of each output channel within each "tile".
        dac_bits: of the input converters, symmetric around zero (8 bits are 255 values); None for exact inputs.
        dac_range: the input that is full scale: a number in the units of the activations, "vector" for the largest
            magnitude of each input vector, or "calibrated" for the largest one of each layer in calibration data.
        input_slice_bits: of the magnitude of a converted input, from the least significant, that are on the rows at
            once (1: bit-serial); the outputs of each step are converted and added digitally. None for all at once.
        adc_bits: of the output converters, likewise; 1 bit is a sign, and counts as full scale. None for exact outputs.
        adc_range: the sum that is full scale, where 1 is one cell pair at full range times an input at full scale:
            a number, or "calibrated" for a percentile of each layer's sums in calibration data.
        adc_percentile: which: so many per cent of the sums of calibration data are within the range.
        adc: what converts: "sar", successive approximation, or "ramp". They differ in what a conversion takes
            (`hardy.hardware.cost`), and in what a mismatch of their parts does.
        adc_mismatch: standard deviation of a unit capacitor, or of a step of the ramp, as a share of it.
        output_noise: standard deviation of each output before it is converted, in the units of `adc_range`.
        read_noise: factor on the cells' read noise; 0 turns it off.
        stuck_low: probability that a cell is stuck at g_min.
        stuck_high: probability that a cell is stuck at g_max.
        nonlinearity: b of cells whose current over voltage is `sinh(b v) / sinh(b)`, v in units of the full scale; 0
            for ohmic cells. Inputs at full scale and at zero, as bit-serial ones are, do not meet it.
        wire_resistance: ohm of each segment of row and column wires between cells, and to driver and converter.
        wires: how the drop along the wires is found: "first-order", or "exact" by solving the network of every tile.
        compensation: drift is undone by one digital factor per "tensor" or per output "channel": the sum of
            magnitudes right after programming over the sum now; each slice has its own. "none" leaves it.
    """

    device: Device
    tile_rows: int = 512
    tile_columns: int = 512
    cell_levels: int | None = None
    weight_slices: int = 1
    weight_range: WeightRange = "channel"
    dac_bits: int | None = None
    dac_range: float | Literal["vector", "calibrated"] = "vector"
    input_slice_bits: int | None = None
    adc_bits: int | None = None
    adc_range: float | Literal["calibrated"] = "calibrated"
    adc_percentile: float = 99.999
    adc: Architecture = "sar"
    adc_mismatch: float = 0.0
    output_noise: float = 0.0
    read_noise: float = 1.0
    stuck_low: float = 0.0
    stuck_high: float = 0.0
    nonlinearity: float = 0.0
    wire_resistance: float = 0.0
    wires: Wires = "first-order"
    compensation: Compensation = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.device, Device):
            raise InputError(f"device must be a Device, got {self.device!r}")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checks.unwrapped(getattr(self, field.name)))
            check_size(field.name, getattr(self, field.name))
        for name in ("tile_rows", "tile_columns"):
            checks.integer(name, getattr(self, name), at_least=1)
        for name, least in (("dac_bits", 2), ("adc_bits", 1)):
            if getattr(self, name) is not None:
                checks.integer(f"{name} (or None)", getattr(self, name), at_least=least, at_most=16)
        for name, kind in (
            ("weight_range", WeightRange), ("compensation", Compensation), ("wires", Wires), ("adc", Architecture),
        ):  # fmt: skip
            checks.one_of(name, getattr(self, name), get_args(kind))
        for name, words in (("dac_range", ("vector", "calibrated")), ("adc_range", ("calibrated",))):
            value = getattr(self, name)
            if isinstance(value, str) and value not in words:
                raise InputError(f"{name} must be a number or {' or '.join(words)}, got {value!r}")
            if not isinstance(value, str):
                checks.number(name, value, above=0)
        checks.number("adc_percentile", self.adc_percentile, above=50, at_most=100)
        self._check_slices()
        checks.number("adc_mismatch", self.adc_mismatch, at_least=0, at_most=0.5)
        checks.number("nonlinearity", self.nonlinearity, at_least=0, at_most=20)
        if self.nonlinearity and self.wire_resistance:
            raise InputError(
                "the drop along wires is that of ohmic cells: a chip has nonlinearity or wire_resistance, got "
                f"{self.nonlinearity:g} and {self.wire_resistance:g}"
            )
        for name in ("output_noise", "read_noise", "wire_resistance", "stuck_low", "stuck_high"):
            checks.number(name, getattr(self, name), at_least=0)
        if self.stuck_low + self.stuck_high > 1:
            raise InputError(
                f"stuck_low and stuck_high must add up to at most 1, got {self.stuck_low:g} and {self.stuck_high:g}"
            )

    def _check_slices(self) -> None:
        if self.cell_levels is not None:
            checks.integer("cell_levels (or None)", self.cell_levels, at_least=2, at_most=65536)
        checks.integer("weight_slices", self.weight_slices, at_least=1, at_most=16)
        if self.weight_slices > 1 and self.cell_levels is None:
            raise InputError(f"weight_slices={self.weight_slices} needs cell_levels, the base of their digits")
        if self.cell_levels is not None and self.cell_levels**self.weight_slices > 2**24:
            raise InputError(
                f"{self.weight_slices} cells of {self.cell_levels} levels hold more than 24 bits, which no weight has"
            )
        if self.input_slice_bits is not None:
            if self.dac_bits is None:
                raise InputError("input_slice_bits needs dac_bits: exact inputs have no bits")
            checks.integer("input_slice_bits (or None)", self.input_slice_bits, at_least=1, at_most=self.dac_bits - 1)

    @property
    def needs_data(self) -> bool:
        """Whether a converter's range is found on calibration data, or without any on the first inputs."""
        return (self.has_range and self.dac_range == "calibrated") or (
            self.adc_bits is not None and self.adc_range == "calibrated"
        )

    @property
    def has_range(self) -> bool:
        """Whether the input's full scale matters: to a converter, to the cells, or to the noise at the output."""
        return self.dac_bits is not None or self.adc_bits is not None or self.output_noise > 0 or self.nonlinearity > 0

    @property
    def has_periphery(self) -> bool:
        """Whether something happens at each use that cannot be written into the weights."""
        return self.has_range or self.read_noise > 0

    def without_periphery(self) -> "Chip":
        """The same arrays read exactly: no converters, no output noise, no read noise, ohmic cells."""
        return dataclasses.replace(
            self, dac_bits=None, input_slice_bits=None, adc_bits=None, output_noise=0.0, read_noise=0.0,
            nonlinearity=0.0,
        )  # fmt: skip

    def program(self, weight: torch.Tensor, *, seed: int, site: str, seconds: float = 0.0) -> torch.Tensor:
        """`weight` as this chip stores it: programmed, and read back without converters and read noise.

        Args:
            weight: (out, in), or (out, in, ...) of a convolution, floating-point, finite; not written to.
            seed: which instance of the chip.
            site: the layer's name; the same seed and site give the same cells, other ones others.
            seconds: since programming, drift and its compensation included.

        Returns:
            The same shape, dtype and units.

        Raises:
            InputError: `weight` is no such tensor, or the cells are not known at that time.
        """
        if not (isinstance(weight, torch.Tensor) and weight.ndim >= 2 and weight.is_floating_point()):
            got = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, torch.Tensor) else repr(weight)
            raise InputError(f"weight must be a floating-point tensor (out, in, ...), got {got}")
        matrix = weight.detach().flatten(1).float()
        if bad := int((~torch.isfinite(matrix)).sum()):
            raise InputError(f"{site} holds {bad} NaN or infinite weights of {matrix.numel()}")
        return (
            program_matrix(matrix, self, seed=seed, site=site, seconds=seconds).weight.reshape(weight.shape).to(weight)
        )

    @staticmethod
    def with_noise(noise: WeightNoise) -> "Chip":
        """The chip whose cells give every weight this noise, read exactly; `seed`, `select` and `layers` are not used.

        Raises:
            InputError: no cells make it: additive noise relative to something else than the largest weight of the
                tensor or of each output channel, or a kind of one's own.
        """
        if isinstance(noise, ProportionalNoise):
            return Chip(device=ProportionalDevice(program=noise.strength))
        if isinstance(noise, LogNormalNoise):
            return Chip(device=LogNormalDevice(sigma=noise.strength))
        ranges: dict[str, WeightRange] = {"tensor-absmax": "tensor", "channel-absmax": "channel"}
        if isinstance(noise, AdditiveNoise) and noise.relative_to in ranges:
            device = AdditiveDevice.of_weight(program=noise.strength)
            return Chip(device=device, weight_range=ranges[noise.relative_to])
        raise InputError(
            "a chip has proportional noise, log-normal noise, or additive noise relative to tensor-absmax or "
            f"channel-absmax, got {noise}"
        )

    @staticmethod
    def preset(name: str) -> "Chip":
        """A chip by name.

        "ideal" adds nothing. "pcm" (Nandakumar's cells), "hermes" and "hermes-1" (two and one device to a cell,
        256 x 256 arrays), "reram-wan" and "reram-wan-cubic" (256 x 256; aihwkit's and CrossSim's fit of the same
        data), "reram-cmo" and "reram-cmo-0.2" (acceptance of 2 and 0.2 %), "reram-milo", "pcm-joshi" and "sonos" have
        8-bit converters with input vectors at full scale and calibrated outputs; those with drift laws known as such
        (pcm, hermes) compensate it per tensor. "pcm-foundation" is the chip of the analog foundation models: 8-bit
        static converters, inputs calibrated, outputs up to 14 cells, 512 x 512 tiles.

        Raises:
            InputError: there is no such preset.
        """
        if name in _FORMER_NAMES:
            warn_renamed(f"the chip {name!r}", repr(_FORMER_NAMES[name]))
            name = _FORMER_NAMES[name]
        if name not in _PRESETS:
            raise InputError(f"no chip {name!r}{near_misses(name, _PRESETS)}; there are: {', '.join(_PRESETS)}")
        return _PRESETS[name]

    @staticmethod
    def named(name: str) -> "Chip":
        """A preset; the chip in a `.json` file; or measured cells in a `.csv` table (`TableDevice.from_csv`), with the
        arrays and converters of "reram-wan".

        Raises:
            InputError: there is no such preset or file, or the file is damaged.
        """
        if name.endswith(".json"):
            return Chip.load(name)
        if name.endswith(".csv"):
            with reading(name):
                return dataclasses.replace(Chip.preset("reram-wan"), device=TableDevice.from_csv(name))
        return Chip.preset(name)

    @staticmethod
    def presets() -> tuple[str, ...]:
        """The names that `preset` knows."""
        return tuple(_PRESETS)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format": FORMAT, "version": VERSION, **fields, "device": self.device.to_dict()}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Chip":
        """The chip that `to_dict` described.

        Raises:
            InputError: it is not a chip, or a field is unknown or out of range.
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT or record.get("version") != VERSION:
            raise InputError(f"not a chip of hardy, version {VERSION}: {str(record)[:60]!r}")
        fields = {name: value for name, value in record.items() if name not in {"format", "version"}}
        known = [field.name for field in dataclasses.fields(Chip)]
        for name in fields:
            if name not in known:
                raise InputError(
                    f"a chip has no field {name!r}{near_misses(name, known)}; its fields are {', '.join(known)}"
                )
        if not isinstance(fields.get("device"), Mapping):
            raise InputError(f"the device of a chip must be a mapping, got {fields.get('device')!r}")
        return Chip(**{**fields, "device": device_from_dict(fields["device"])})

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, self.to_dict())

    @staticmethod
    def load(path: str | Path) -> "Chip":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged or not a chip.
        """
        if not Path(path).is_file():
            raise InputError(f"chip file {path} does not exist")
        with reading(path):
            return Chip.from_dict(read_json(path))


def _eight_bits(device: Device, size: int = 256, **fields: Any) -> Chip:
    return Chip(device=device, tile_rows=size, tile_columns=size, dac_bits=8, adc_bits=8, **fields)


_PRESETS: dict[str, Chip] = {
    "ideal": Chip(device=AdditiveDevice(), read_noise=0.0),
    "pcm": _eight_bits(PCM(), compensation="tensor"),
    "hermes": _eight_bits(HermesPCM(), compensation="tensor"),
    "hermes-1": _eight_bits(HermesPCM(devices=1, g_max=10.35), compensation="tensor"),
    "pcm-foundation": _eight_bits(FoundationPCM(), 512, dac_range="calibrated", adc_range=14.0),
    "pcm-joshi": _eight_bits(
        FittedDevice(coefficients=(0.28638599, 0.07585724, -0.00178767), fitted=(0.0, 25.0), g_min=0.25, g_max=25.0)
    ),
    "reram-wan": _eight_bits(ReramWan()),
    "reram-wan-cubic": _eight_bits(
        FittedDevice(
            coefficients=(1.053, 0.2374, -0.01167, 0.0001536), fitted=(0.0, 39.26), g_max=39.26, truncated=False
        )
    ),
    "reram-milo": _eight_bits(
        FittedDevice(coefficients=(4.782321, -0.009107), fitted=(50.0, 225.0), g_min=50.0, g_max=225.0, truncated=False)
    ),
    "reram-cmo": _eight_bits(ReramCMO()),
    "reram-cmo-0.2": _eight_bits(ReramCMO(acceptance=0.2)),
    "sonos": _eight_bits(Sonos()),
}

_FORMER_NAMES = {"afm-pcm": "pcm-foundation", "rram-wan": "reram-wan-cubic", "rram-milo": "reram-milo"}
