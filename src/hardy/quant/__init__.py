"""Few bits, and where to spend them."""

from hardy.quant import activation, binary
from hardy.quant.absmean import AbsmeanTrits
from hardy.quant.asymmetric_trits import AsymmetricTrits
from hardy.quant.binary_weights import Annealing, BinaryWeights
from hardy.quant.bit_budget import allocate
from hardy.quant.block_removal import perplexity_drop
from hardy.quant.calibrated_trit_planes import CalibratedTritPlanes
from hardy.quant.clipped_round_to_nearest import ClippedRoundToNearest
from hardy.quant.decoder import Decoder
from hardy.quant.gptq import GPTQ
from hardy.quant.grid_linear import GridLinear
from hardy.quant.importance import combined, layer_importance
from hardy.quant.layer_bits import LayerBits
from hardy.quant.low_rank import lora
from hardy.quant.onnx_export import export_onnx
from hardy.quant.pack import Pack
from hardy.quant.packed_binary import PackedBinaryConv2d, PackedBinaryLinear
from hardy.quant.packed_embedding import PackedEmbedding, PackedHead
from hardy.quant.packed_experts import PackedExperts
from hardy.quant.packed_int8 import PackedInt8Conv2d, PackedInt8Linear
from hardy.quant.rectifiers import RPReLU
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.quant.spectral import effective_rank, energy_gain
from hardy.quant.trit_linear import TritLinear
from hardy.quant.trit_planes import TritPlanes
from hardy.quant.tuned_scales import TunedScales
from hardy.quant.unpacking import Unpack, unpack
from hardy.quant.writing import Writer

__all__ = [
    "GPTQ",
    "AbsmeanTrits",
    "Annealing",
    "AsymmetricTrits",
    "BinaryWeights",
    "CalibratedTritPlanes",
    "ClippedRoundToNearest",
    "Decoder",
    "GridLinear",
    "LayerBits",
    "Pack",
    "PackedBinaryConv2d",
    "PackedBinaryLinear",
    "PackedEmbedding",
    "PackedExperts",
    "PackedHead",
    "PackedInt8Conv2d",
    "PackedInt8Linear",
    "RPReLU",
    "RoundToNearest",
    "TritLinear",
    "TritPlanes",
    "TunedScales",
    "Unpack",
    "Writer",
    "activation",
    "allocate",
    "binary",
    "combined",
    "effective_rank",
    "energy_gain",
    "export_onnx",
    "layer_importance",
    "lora",
    "perplexity_drop",
    "unpack",
]
