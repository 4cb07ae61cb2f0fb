"""What happens inside a language model: locate what matters for a behaviour, steer it, and say what else changed."""

from hardy.interp import circuit, planted, prompts, recipes
from hardy.interp.adapters import adapter_task_vector, write_adapter
from hardy.interp.amplitude import Amplitude, LayerSkip, without_tokens
from hardy.interp.attention import PrefixMatching, Sink
from hardy.interp.baking import AblatedWeights, BakedVector, bake
from hardy.interp.causal import Patching, knocked_out, patch, record
from hardy.interp.corrections import GradDrop, QKFix
from hardy.interp.dola import DoLa
from hardy.interp.edge_search import PathPatching, acdc, learned_masks
from hardy.interp.gradient import AttributionPatching, Fisher, Gradient
from hardy.interp.head_vectors import HeadVectors
from hardy.interp.knockouts import Controls, controls
from hardy.interp.lenses import Patchscope, TunedLens
from hardy.interp.locating import locate
from hardy.interp.locator import LOCATORS, Locator
from hardy.interp.loreft import LoReFT
from hardy.interp.magnitude import BlockInfluence, Magnitude, Massive, block_influence, language_neurons
from hardy.interp.memit import MEMIT, AlphaEdit
from hardy.interp.objects import KINDS, Unit, unit_named
from hardy.interp.probing import Probing
from hardy.interp.rome import ROME
from hardy.interp.sae import SAE
from hardy.interp.sae_training import Trained, Training
from hardy.interp.sae_training import train as train_sae
from hardy.interp.selecting import Selection, select_direction
from hardy.interp.steering import DirectionalAblation, SteeringVector
from hardy.interp.task import Example, Task, scores
from hardy.interp.task_vectors import TaskVectors, write_task_vector
from hardy.interp.tuning import MaskedFineTuning, Unlearning
from hardy.interp.vectors import Directions, Pair, direction
from hardy.interp.vocabulary import DirectLogitAttribution, LogitLens, top_tokens

__all__ = [
    "KINDS",
    "LOCATORS",
    "MEMIT",
    "ROME",
    "SAE",
    "AblatedWeights",
    "AlphaEdit",
    "Amplitude",
    "AttributionPatching",
    "BakedVector",
    "BlockInfluence",
    "Controls",
    "DirectLogitAttribution",
    "DirectionalAblation",
    "Directions",
    "DoLa",
    "Example",
    "Fisher",
    "GradDrop",
    "Gradient",
    "HeadVectors",
    "LayerSkip",
    "LoReFT",
    "Locator",
    "LogitLens",
    "Magnitude",
    "MaskedFineTuning",
    "Massive",
    "Pair",
    "Patching",
    "Patchscope",
    "PathPatching",
    "PrefixMatching",
    "Probing",
    "QKFix",
    "Selection",
    "Sink",
    "SteeringVector",
    "Task",
    "TaskVectors",
    "Trained",
    "Training",
    "TunedLens",
    "Unit",
    "Unlearning",
    "acdc",
    "adapter_task_vector",
    "bake",
    "block_influence",
    "circuit",
    "controls",
    "direction",
    "knocked_out",
    "language_neurons",
    "learned_masks",
    "locate",
    "patch",
    "planted",
    "prompts",
    "recipes",
    "record",
    "scores",
    "select_direction",
    "top_tokens",
    "train_sae",
    "unit_named",
    "without_tokens",
    "write_adapter",
    "write_task_vector",
]
