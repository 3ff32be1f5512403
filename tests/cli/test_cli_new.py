"""`clarena new`: the file runs, passes every check, and is never written over another."""

import ast

import pytest
from cli_command import clarena, smoke


def test_what_new_writes_passes_every_check_and_runs(tmp_path):
    made = clarena("new", "my-method", "--dir", tmp_path)
    path = tmp_path / "my_method.py"
    assert made.code == 0
    assert f"clarena check {path}" in made.out
    ast.parse(path.read_text())

    checked = clarena("check", path, "--json")
    assert checked.code == 0
    (report,) = checked.data
    assert report["strategy"] == "my-method"
    by_rule = {(each["name"], each["scenario"]): each["outcome"] for each in report["results"]}
    assert by_rule["off", "class"] == "passed"
    assert by_rule["restart", "task"] == "passed"

    ran = smoke(tmp_path / "runs", "my-method", "--plugin", path, "--seeds", 1, "--json")
    assert ran.code == 0
    (row,) = ran.data["tracks"][0]["rows"]
    assert row["strategy"] == "my-method"
    assert row["hyperparameters"] == {"strength": 0.1}
    # The anchor is a registered buffer, so the host counts it: as many bytes again as the model has.
    assert row["state_bytes"] == 2 * 4 * row["parameters"]

    described = clarena("describe", "my-method", "--plugin", path, "--json").data[0]
    assert described["mismatches"] == []
    assert len(described["differences"]) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("9lives", "a letter first"),
        ("MyMethod", "lower-case letters"),
        ("my method", "lower-case letters"),
        ("../escape", "lower-case letters"),
        ("_hidden", "a letter first"),
        ("class", "no word of Python"),
        ("ewc", "There is a strategy 'ewc' already"),
        ("native", "is the name of a plugin"),
        ("torch", "would hide the Python module 'torch'"),
    ],
)
def test_a_name_that_would_not_work_is_refused(name, why, tmp_path):
    outcome = clarena("new", "--dir", tmp_path, "--", name)
    assert outcome.code == 2
    assert why in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_left_as_it_is(tmp_path):
    path = tmp_path / "mymethod.py"
    path.write_text("# mine\n")
    outcome = clarena("new", "mymethod", "--dir", tmp_path)
    assert outcome.code == 2
    assert "exists, and is left as it is" in outcome.err
    assert path.read_text() == "# mine\n"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    outcome = clarena("new", "mymethod", "--dir", tmp_path / "absent")
    assert outcome.code == 1
    assert "Choose another folder with --dir" in outcome.err
