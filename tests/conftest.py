"""What all tests share: where the helpers are, and tiny models that are built, not loaded."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process and of those that tests start: the cores are shared
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # of a few Gaussians: compiling takes longer than doing

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `benchmarks`
sys.path.insert(0, str(Path(__file__).parent))  # for `models`, `reference` and `contract`

from models import SIZES, build
from transformers import LlamaConfig, LlamaForCausalLM

from hardy.zoo.tokenizer import train_tokenizer

logging.disable_progress_bar()
settings.register_profile("hardy", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("hardy")

torch.set_num_threads(1)  # tiny models: threads that wait for each other on busy cores cost a hundredfold

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    return DATA


@pytest.fixture
def llama() -> torch.nn.Module:
    """A tiny Llama of two layers with random weights, untied, in evaluation mode."""
    return build("llama")


@pytest.fixture(scope="session")
def micro_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of two layers with random weights and a tokenizer, as `from_pretrained` wants it."""
    folder = tmp_path_factory.mktemp("micro-llama")
    text = "def add(first, second):\n    return first + second\n"
    tokenizer = train_tokenizer([text], vocab_size=270, max_length=64)
    tokenizer.save_pretrained(folder)
    sizes = {**SIZES, "vocab_size": 270, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def ids() -> torch.Tensor:
    """(2, 9) token ids for the tiny models, whose vocabulary is 64."""
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
