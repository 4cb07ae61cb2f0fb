"""Which compiled path runs, and that hardy runs without any."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from trit_matrices import activations, matrix_of

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.trit_product import _triton, trit_product, trit_product_reference
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
    _triton.cache_clear()
    with pytest.warns(RuntimeWarning, match=r'without its Triton kernels.*pip install "hardy\[cuda\]"'):
        assert _triton() is None
    assert _triton() is None
    _triton.cache_clear()


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
