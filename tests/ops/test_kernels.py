"""Which compiled path runs, and that hardy runs without any."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from trit_matrices import activations, matrix_of

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.trit_product import trit_product, trit_product_reference
from hardy.quant import TritLinear
from hardy.quant.trit_planes import fit


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test finds out about the extension is not kept for the next."""
    yield
    kernels.extension.cache_clear()
    kernels._path.cache_clear()


def test_the_fastest_path_runs_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.paths():
        pytest.skip("hardy's compiled kernels were not built")
    assert kernels.paths()[-1] == "scalar"
    monkeypatch.delenv("HARDY_KERNELS", raising=False)
    assert kernels.path() == kernels.paths()[0]
    for name in kernels.paths():
        monkeypatch.setenv("HARDY_KERNELS", name)
        assert kernels.path() == name
    monkeypatch.setenv("HARDY_KERNELS", "torch")
    assert kernels.path() is None


def test_refuses_a_path_that_the_processor_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_KERNELS", "altivec")
    with pytest.raises(InputError, match=r"HARDY_KERNELS='altivec': this processor has (.*, )?torch"):
        trit_product(torch.zeros(1, 100), matrix_of(1, 4, 100, 32))


def test_without_the_extension_the_reference_runs_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDY_KERNELS", raising=False)
    monkeypatch.setitem(sys.modules, "hardy._kernels", None)
    kernels.extension.cache_clear()
    kernels._path.cache_clear()
    matrix, x = matrix_of(2, 20, 100, 32), activations(3, 100)
    with pytest.warns(RuntimeWarning, match=r"without its compiled kernels.*Install a C\+\+17 compiler") as caught:
        found = trit_product(x, matrix)
    assert len(caught) == 1
    assert torch.equal(found, trit_product_reference(x, matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(trit_product(x, matrix), found)


def test_without_triton_says_what_to_install_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hardy.ops.trit_product_triton", None)
    monkeypatch.setitem(sys.modules, "hardy.ops.packed_attention_triton", None)
    kernels._triton.cache_clear()
    kernels._warn_of_triton.cache_clear()
    with pytest.warns(RuntimeWarning, match=r'without its Triton kernels.*pip install "hardy-nn\[cuda\]"'):
        assert kernels.triton("trit_product_triton") is None
    assert kernels.triton("packed_attention_triton") is None
    kernels._triton.cache_clear()


def test_the_variable_changes_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fit(torch.linspace(-1, 1, 40 * 300).sin().view(40, 300), 2, 128)
    layer = TritLinear.from_trits(found.trits, found.scales, 300)
    x, results = torch.linspace(-2, 2, 900).view(3, 300), []
    for name in [*kernels.paths(), "torch"]:
        monkeypatch.setenv("HARDY_KERNELS", name)
        assert kernels.path() == (None if name == "torch" else name)
        results.append(layer(x))
    assert results[0].shape == (3, 40)
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_variable_is_heard_by_a_new_process() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from hardy.ops import kernels; print(kernels.path())"],
        env=os.environ | {"HARDY_KERNELS": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"


class WithoutExchange(torch.Tensor):
    """A tensor as before torch 2.10, without DLPack's exchange interface for C."""

    __dlpack_c_exchange_api__ = None


def test_tensors_are_checked_where_they_enter_compiled_code() -> None:
    """dtype, device, order and shape; also arrays of other frameworks, through DLPack, and none is copied."""
    module = kernels.extension()
    if module is None:
        pytest.skip("hardy's compiled kernels were not built")
    means, eye, coefficients = torch.randn(5, 3), torch.zeros(3), torch.randn(5, 4, 3)
    radii, colors = torch.ones(5, 2, dtype=torch.int32), torch.empty(5, 3)
    given = {"means": means, "eye": eye, "coefficients": coefficients, "radii": radii, "colors": colors}

    def call(degree: int = 1, **changes: object) -> None:
        module.harmonics(degree, *{**given, **changes}.values(), 1)

    call()
    array = np.empty((5, 3), np.float32)
    call(means=means.numpy(), colors=array)
    assert np.array_equal(array, colors.numpy())
    call(means=torch.nn.Parameter(means))
    call(means=means.as_subclass(WithoutExchange), colors=torch.empty(5, 3).as_subclass(WithoutExchange))
    call(means=means[:0], coefficients=coefficients[:0], radii=radii[:0], colors=colors[:0])
    array.flags.writeable = False
    wrong = {"means": means.double(), "eye": eye.to("meta"), "coefficients": coefficients.mT, "radii": radii.long()}
    wrong |= {"colors": array}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(**{name: value})
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(means=None)
    for name, value, said in (
        ("means", means[:4], r"means must have the shape \(5, 3\), got \(4, 3\)"),
        ("eye", means, r"eye must have the shape \(3,\), got \(5, 3\)"),
        ("radii", radii.view(-1), r"radii must have the shape \(5, 2\), got \(10,\)"),
        ("coefficients", coefficients.view(5, 12), r"coefficients must have the shape \(-1, -1, 3\), got \(5, 12\)"),
    ):
        with pytest.raises(ValueError, match=said):
            call(**{name: value})
    with pytest.raises(ValueError, match="degree must be 0 to 3"):
        call(degree=2)


def test_threads_wait_only_a_moment_where_hardy_comes_before_torch() -> None:
    """Unless the user says otherwise: spinning threads keep from running what they wait for on a busy machine."""

    def policy(code: str, **variables: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
        code = f"import os\n{code}\nprint(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
        line = [sys.executable, "-c", code]
        return subprocess.run(line, env=clean | variables, capture_output=True, text=True, check=True).stdout.strip()

    assert policy("import hardy") == "PASSIVE 2000"
    assert policy("import hardy.cli.main, torch") == "PASSIVE 2000"
    assert policy("import hardy", GOMP_SPINCOUNT="0") == "PASSIVE 0"
    assert policy("import hardy", OMP_WAIT_POLICY="ACTIVE") == "ACTIVE None"
    assert policy("import torch, hardy") == "None None"
