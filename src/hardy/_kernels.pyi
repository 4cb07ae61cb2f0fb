def advise_huge_pages(address: int, bytes: int, /) -> None: ...
def trit_product_paths() -> list[str]: ...
def trit_product(
    path: str,
    x: int,
    tokens: int,
    codes: int,
    scales: int,
    rows: int,
    width: int,
    group_size: int,
    planes: int,
    output: int,
    threads: int,
    /,
) -> None: ...
