"""`clarena doctor`: finds what is wrong, says what to do, and changes nothing."""

from pathlib import Path

import pytest
from cli_command import clarena

FAULTY = Path(__file__).parent / "faulty_plugins"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def findings(*arguments):
    outcome = clarena("doctor", "--json", *arguments)
    data = outcome.data
    assert outcome.code == int(any(each["state"] == "problem" for each in data))
    assert all(each["remedy"] for each in data if each["state"] != "ok")
    return {each["topic"]: each for each in data}


def test_a_sound_place_has_no_problem_and_nothing_is_written(tmp_path):
    found = findings("--no-plugins")
    assert {each["state"] for each in found.values()} == {"ok"}
    assert {"python", "clarena-bench", "packages", "extras", "cores", "store", "mlflow", "data"} <= set(found)
    assert "torch " in found["packages"]["text"]
    assert "are what they are registered as" in found["registrations"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_the_unrelated_distribution_of_the_same_import_name_is_found(tmp_path, monkeypatch):
    info = tmp_path / "site" / "clarena-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clarena\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(info.parent)
    found = findings("--no-plugins")["import name"]
    assert found["state"] == "problem"
    assert "clarena 9.9" in found["text"]
    assert "pip uninstall" in found["remedy"]


def test_what_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "file"))
    arguments = ("--store", tmp_path / "file" / "runs", "--tracking-uri", f"sqlite:///{tmp_path}/file/x/mlflow.db")
    found = findings("--no-plugins", *arguments)
    assert found["store"]["state"] == "problem"
    assert found["mlflow"]["state"] == "problem"
    assert found["data"]["state"] == "warning"  # the digits need no download


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "file:./mlruns", "sqlite:///broken.db"])
def test_an_mlflow_that_cannot_be_used_is_found(uri, tmp_path):
    (tmp_path / "broken.db").write_text("this is no database, but long enough to be taken for one " * 9)
    assert findings("--no-plugins", "--tracking-uri", uri)["mlflow"]["state"] == "problem"


def test_broken_plugins_damaged_records_and_data_sets_are_told(tmp_path):
    record = tmp_path / "runs" / "track" / "cell" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    found = findings("--plugins-dir", FAULTY)
    assert found["plugin syntax_error"]["state"] == "problem"
    assert "SyntaxError" in found["plugin syntax_error"]["text"]
    assert found["data"]["text"].endswith("MNIST")
    text = clarena("doctor", "--plugins-dir", FAULTY).out
    assert "1 of its records, folders or archives cannot be read or believed" in text
    assert "→ clarena results --store runs says why" in text


def test_a_registration_that_disagrees_with_its_class_is_a_warning(tmp_path):
    (tmp_path / "unlike.py").write_text(
        "from clarena import Strategy, hookimpl\n\n\n"
        "class Method(Strategy):\n    '''Says one thing.'''\n\n    name = 'method'\n\n\n"
        "@hookimpl\ndef clarena_register_strategies(register):\n"
        "    register(Method, summary='Says another')\n"
        "    register('no_such_package:Method', name='absent', summary='Is not there')\n"
    )
    found = findings("--plugin", "unlike.py")
    assert found["strategy method"]["state"] == "warning"
    assert found["strategy absent"]["state"] == "problem"
    assert "no_such_package" in found["strategy absent"]["text"]
