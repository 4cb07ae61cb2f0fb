"""What every method promises, checked for every method there is."""

import copy
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import types
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import transformers
from contract.cases import CASES, Case
from models import assert_same, same_bytes, snapshot
from torch import nn

import hardy
from hardy.core import InputError, Method
from hardy.core.method import from_dict
from hardy.zoo.text import training_documents

DTYPES = [torch.float32, torch.bfloat16]


def every_method() -> list[type[Method]]:
    """The concrete subclasses of `Method` in all modules of the package."""
    found: set[type[Method]] = set()
    for module in pkgutil.walk_packages(hardy.__path__, "hardy."):
        if module.name.rpartition(".")[2] == "__main__":
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if isinstance(kind, types.GenericAlias):  # which Python 3.10 takes for a class
                continue
            if issubclass(kind, Method) and not inspect.isabstract(kind) and kind.__module__.startswith("hardy."):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__qualname__)


METHODS = every_method()
IDS = [kind.__name__ for kind in METHODS]
every = pytest.mark.parametrize("kind", [kind for kind in METHODS if kind in CASES], ids=lambda kind: kind.__name__)
with_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"], scope="function")


@functools.cache
def original(name: str, dtype: torch.dtype) -> nn.Module:
    return hardy.zoo.load(name, dtype=dtype)[0]


@pytest.fixture
def dtype() -> torch.dtype:
    return torch.float32


@pytest.fixture
def kind() -> type[Method] | None:
    return None


@pytest.fixture
def model(dtype: torch.dtype, kind: type[Method]) -> nn.Module:
    model = copy.deepcopy(original(CASES[kind].model, dtype))
    first = CASES[kind].after
    if first is not None:
        first.apply(model)
    return model


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two windows of text the zoo's model never saw."""
    tokenizer = hardy.zoo.load("tiny-llama")[1]
    return hardy.evaluate.encode(tokenizer, hardy.zoo.held_out_text("calibration"))[: 2 * 64].reshape(2, 64)


@functools.cache
def calibration() -> list[torch.Tensor]:
    """Batches for the methods that need data: of text the zoo's model was trained on, which nothing is judged on."""
    tokenizer = hardy.zoo.load("tiny-llama")[1]
    text = "\n\n".join(training_documents()[0][:20])
    return hardy.evaluate.batches(tokenizer, text, window=256, tokens=2048)


@functools.cache
def judged() -> list[torch.Tensor]:
    """Twelve windows of 512 tokens, (1, 512) each, that no method sees."""
    ids = hardy.evaluate.encode(hardy.zoo.load("tiny-llama")[1], hardy.zoo.held_out_text("calibration"))
    return [ids[i * len(ids) // 12 :][:512][None] for i in range(12)]


@functools.cache
def intact_logits(name: str) -> list[torch.Tensor]:
    return [logits(original(name, torch.float32), window) for window in judged()]


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits


def weights(method: Method, model: nn.Module, data: Iterable[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The state of `model` with `method` applied, and what it computes in training mode if the weights stay.

    The model itself is left as it was.
    """
    with method.apply(model, calibration() if data is None else data):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return state | outputs_in_training(method, model)


def outputs_in_training(method: Method, model: nn.Module) -> dict[str, torch.Tensor]:
    if not CASES[type(method)].weights_stay:
        return {}
    model.train()
    outputs = logits(model, torch.arange(64)[None])
    model.eval()
    return {"outputs in training mode": outputs}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(same_bytes(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", METHODS, ids=IDS)
def test_every_method_has_a_case(kind: type[Method]) -> None:
    assert kind in CASES, (
        f"{kind.__module__}.{kind.__qualname__} is a method without a contract: add an entry for it to CASES in "
        "tests/contract/cases.py, with a typical instance, values each field must refuse, and where they exist another "
        "seed, a zero strength and the naive control"
    )


def test_every_case_is_a_method_of_the_package_and_gives_reasons() -> None:
    assert set(CASES) <= set(METHODS)
    for kind, case in CASES.items():
        assert type(case.typical) is kind
        assert bool(case.no_identity) == (case.identity is None), f"{kind.__name__}: an identity, or why there is none"
        assert bool(case.no_control) == (case.control is None), f"{kind.__name__}: a control, or why there is none"
        seeded = "seed" in set(kind.__dataclass_fields__)
        assert not seeded or case.reseeded, f"{kind.__name__} has a seed, so give it another one"


@every
@with_dtype
def test_it_changes_the_model_and_undo_restores_it(kind: type[Method], model: nn.Module) -> None:
    method = CASES[kind].typical
    before, outputs = snapshot(model), outputs_in_training(method, model)
    with method.apply(model, calibration()) as change:
        now = {name: tensor for name, (_, tensor) in snapshot(model).items()}
        changed = [
            name for name, tensor in now.items() if name not in before or not same_bytes(tensor, before[name][1])
        ]
        assert changed or not same(outputs, outputs_in_training(method, model))
        assert all(tensor.dtype == before[name][1].dtype for name, tensor in now.items() if name in before)
        assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
        assert change.report.rows, "the report says what was done where"
    assert_same(before, model)


@every
@with_dtype
def test_the_same_seed_gives_the_same_model(kind: type[Method], model: nn.Module) -> None:
    """Wherever it is run, and whether the data can be read once or many times."""
    case: Case = CASES[kind]
    once = weights(case.typical, model)
    state = torch.get_rng_state()
    torch.manual_seed(12345)  # nothing may depend on the global generator
    try:
        assert same(once, weights(case.typical, copy.deepcopy(model), iter(calibration())))
    finally:
        torch.set_rng_state(state)
    if case.reseeded:
        assert not same(once, weights(case.reseeded, model))


@every
def test_the_global_generator_is_left_alone(kind: type[Method], model: nn.Module) -> None:
    state = torch.get_rng_state()
    CASES[kind].typical.apply(model, calibration())
    assert torch.equal(state, torch.get_rng_state())


@every
@with_dtype
def test_zero_strength_is_the_identity(kind: type[Method], model: nn.Module) -> None:
    if CASES[kind].identity is None:
        pytest.skip(CASES[kind].no_identity)
    method = CASES[kind].identity
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert same(before | outputs_in_training(method, model), weights(method, model))


@every
@with_dtype
def test_what_is_saved_is_what_is_loaded(
    kind: type[Method], model: nn.Module, tokens: torch.Tensor, tmp_path: Path
) -> None:
    case = CASES[kind]
    case.typical.apply(model, calibration())
    if kind.unsaved:
        with pytest.raises(InputError, match=f"a model with {kind.__name__} cannot be stored: {kind.unsaved}"):
            hardy.save(model, tmp_path / "edited")
        return
    if case.unsaved:
        with pytest.raises(InputError, match=f"cannot be stored: {case.unsaved}"):
            hardy.save(model, tmp_path / "edited")
        return
    expected = logits(model, tokens)
    hardy.save(model, tmp_path / "edited")
    assert same_bytes(expected, logits(hardy.load(tmp_path / "edited"), tokens))
    if not case.typical.recorded(model).reapplied:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited").eval()
        assert same_bytes(expected, logits(theirs, tokens))
    record = json.loads((tmp_path / "edited" / "hardy.json").read_text())
    applied = [method for method in (case.after, case.typical) if method is not None]
    assert [from_dict(method) for method in record["methods"]] == [method.recorded(model) for method in applied]


@every
def test_through_plain_data_and_back(kind: type[Method]) -> None:
    for method in (CASES[kind].typical, CASES[kind].reseeded, CASES[kind].identity):
        if method is not None:
            assert from_dict(json.loads(json.dumps(method.to_dict()))) == method
            assert hash(method) == hash(copy.deepcopy(method))


@every
def test_an_unknown_field_is_refused(kind: type[Method]) -> None:
    record = CASES[kind].typical.to_dict()
    fields = {**record["fields"], "strenght_of_it": 3}
    with pytest.raises(TypeError, match="strenght_of_it"):
        kind(strenght_of_it=3, **{name: getattr(CASES[kind].typical, name) for name in record["fields"]})
    with pytest.raises(InputError, match=f"{kind.__name__} has no field 'strenght_of_it'"):
        from_dict({**record, "fields": fields})


@every
def test_fields_out_of_range_are_refused_by_name_and_value(kind: type[Method]) -> None:
    case = CASES[kind]
    fields = {field.name: getattr(case.typical, field.name) for field in dataclasses.fields(kind)}
    checked = set(fields) - {"select", "layers"}
    assert checked <= set(case.refused), f"say in cases.py what {sorted(checked - set(case.refused))} must refuse"
    for name, values in case.refused.items():
        for value in values:
            with pytest.raises(InputError) as refusal:
                kind(**{**fields, name: value})
            message = str(refusal.value)
            shown = value[0] if isinstance(value, tuple) and value else "none" if value == () else value
            assert repr(shown) in message or str(shown) in message, f"{message!r} does not say {value!r}"
            words = {name, name.replace("_", " "), name.rstrip("s"), kind.__name__.lower()}
            assert any(word in message.lower() for word in words), f"{message!r} does not say {name}"


@every
def test_it_is_better_than_its_naive_control(kind: type[Method], model: nn.Module) -> None:
    """On text enough to tell: 6,144 tokens; on a hundred, chance decides between methods as close as these."""
    case = CASES[kind]
    if case.control is None:
        pytest.skip(case.no_control)
    windows = judged()
    references = intact_logits(case.model) if case.after is None else [logits(model, w) for w in windows]

    def harm(method: Method) -> tuple[float, float]:
        with method.apply(model, calibration()) as change:
            divergence = sum(
                torch.nn.functional.kl_div(
                    logits(model, window).log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="sum"
                ).item()
                for window, reference in zip(windows, references, strict=True)
            )
            return divergence, change.report.value("relative_error", "all selected weights")

    ours, control = harm(case.typical), harm(case.control)
    assert ours[0] < control[0]
    assert ours[1] < control[1] or not case.lower_error
