from typing import Any

# Tensors of torch, or arrays that DLPack knows: contiguous, on the CPU, of the dtypes that src/cpp/module.cpp names.
def advise_huge_pages(memory: Any, /) -> None: ...
def trit_product_paths() -> list[str]: ...
def trit_product(
    path: str,
    x: Any,
    codes: Any,
    scales: Any,
    rows: int,
    width: int,
    group_size: int,
    planes: int,
    output: Any,
    threads: int,
    /,
) -> None: ...
def binary_conv(path: str, x: Any, output: Any, channels_last: bool, threads: int, *arguments: Any) -> bool: ...
def grid_product(
    path: str,
    x: Any,
    codes: Any,
    scales: Any,
    rows: int,
    width: int,
    group_size: int,
    planes: int,
    output: Any,
    threads: int,
    /,
) -> None: ...
def add_rms_norm(path: str, residual: Any, delta: Any, weight: Any, epsilon: float, output: Any) -> None: ...
def attend(path: str, projected: Any, *arguments: Any) -> None: ...
def gate(path: str, silu: bool, both: Any, output: Any, /) -> None: ...
def fit_trits(
    weights: Any,
    lengths: Any,
    starts: list[int],
    iterations: int,
    tolerance: float,
    first: int,
    trits: Any,
    scales: Any,
    converged: Any,
    threads: int,
    /,
) -> None: ...
def round_to_trits(
    columns: Any, factor: Any, magnitudes: Any, trits: Any, found: Any, errors: Any, threads: int, /
) -> None: ...
def round_to_grid(columns: Any, factor: Any, *arguments: Any) -> None: ...
def project(*arguments: Any) -> None: ...
def project_backward(*arguments: Any) -> None: ...
def harmonics(degree: int, *arguments: Any) -> None: ...
def harmonics_backward(degree: int, *arguments: Any) -> None: ...
def bin_splats(width: int, height: int, *arguments: Any) -> object: ...
def composite(
    path: str,
    bins: object,
    background: Any | None,
    image: Any,
    alphas: Any,
    weights: Any,
    counts: Any,
    threads: int,
) -> int: ...
def composite_backward(path: str, bins: object, *arguments: Any) -> None: ...
def packed_attention(path: str, query: Any, *arguments: Any) -> None: ...
def nearest_patches(
    image: Any, usable: Any, targets: Any, place: Any, field: Any, distances: Any, *numbers: int
) -> None: ...
