import pytest

from hardy.errors import InputError
from hardy.zoo.text import CALIBRATION, EVALUATION, held_out_text, standard_library, training_files


def test_training_never_sees_a_held_out_module_or_its_tests() -> None:
    held_out = {*EVALUATION, *CALIBRATION}
    names = [path.relative_to(standard_library()).as_posix() for path in training_files()]
    assert len(names) > 300
    for name in held_out:
        assert f"{name}.py" not in names
        assert not [other for other in names if f"test_{name}" in other]
    assert not [name for name in names if "site-packages" in name]


def test_the_parts_are_disjoint_and_long_enough() -> None:
    assert not set(EVALUATION) & set(CALIBRATION)
    assert len(held_out_text("evaluation")) > 250_000
    assert len(held_out_text("calibration")) > 100_000
    assert "class ArgumentParser" in held_out_text("evaluation")


def test_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="'test'.*evaluation, calibration"):
        held_out_text("test")


def test_training_files_are_in_the_same_order_every_time() -> None:
    files = training_files()
    assert files == training_files() == sorted(files)
