"""`perf/same_bits.py`: what counts as a difference between two versions of the code."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "perf" / "same_bits.py"
RUN = "ewc split-digits/class/mlp seed 0"
WAS = ["finished", "a" * 64, "b" * 64]


@pytest.fixture(scope="module")
def same_bits():
    spec = importlib.util.spec_from_file_location("same_bits", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("now", "same", "word"),
    [
        ({RUN: WAS}, True, "same"),
        ({RUN: ["finished", "a" * 64, "c" * 64]}, True, "other losses"),
        ({RUN: ["finished", "c" * 64, "b" * 64]}, False, "DIFFERENT"),
        ({RUN: ["diverged", "a" * 64, "b" * 64]}, False, "diverged"),
        ({}, False, "MISSING"),
        ({RUN: WAS, "mine split-digits/class/mlp seed 0": WAS}, True, "new"),
    ],
)
def test_other_predictions_and_missing_strategies_count(same_bits, now, same, word, capsys):
    assert same_bits.compare({RUN: WAS}, now) is same
    assert word in capsys.readouterr().out


def test_answers_are_of_the_code_of_the_folder_given(same_bits, tmp_path):
    """Here the folder holds no code, so another copy would answer for it: refused."""
    process = same_bits.start(tmp_path, ["finetune"], tmp_path / "answers")
    with pytest.raises(SystemExit, match=f"{tmp_path.name} could not be run"):
        same_bits.collect(process, tmp_path / "answers")
