"""Before anything is run: what a submission is made of, who is asked for what, and what could not be ranked."""

import zipfile
from pathlib import Path

import pytest
from submissions import HELPER, PLUGIN, write_plugin

from clarena.errors import UsageError
from clarena.plugins.host import Host
from clarena.submission import source as sources
from clarena.submission.bundle import write_files
from clarena.submission.source import gather, importable, plugin_sources
from clarena.submission.submit import TrackChoice, choose_strategy, read_about, read_track, refuse

EXAMPLE = Path(__file__).parents[2] / "plugins" / "examples" / "clarena-example"


def host_of(source, folder: Path) -> Host:
    """What a host finds in the unpacked source."""
    write_files(folder, source.files)
    with importable(folder):
        return Host.discover(plugin_sources(folder, source.entry))


def test_a_file_comes_with_its_helpers_and_nothing_else(tmp_path):
    plugin = write_plugin(tmp_path)
    (tmp_path / "notes.py").write_text("SECRET = 1\n")
    (tmp_path / "mine.toml").write_text("")
    source = gather(plugin)
    assert source.entry == "mine.py"
    assert source.files == {"mine.py": PLUGIN.encode(), "mine_helper.py": HELPER.encode()}


def test_a_package_comes_whole_and_without_what_was_compiled(tmp_path):
    (EXAMPLE / "clarena_example").exists()
    source = gather(EXAMPLE / "clarena_example")
    assert source.entry == "clarena_example"
    assert set(source.files) == {"clarena_example/__init__.py", "clarena_example/shrink_perturb.py"}
    host = host_of(source, tmp_path / "copy")
    assert choose_strategy(host, source, None) == "shrink-perturb"


def test_a_wheel_comes_as_its_files_and_its_entry_point_is_loaded(tmp_path):
    wheel = tmp_path / "wheel_example-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "wheel_example/__init__.py", PLUGIN.replace("from mine_helper", "from wheel_example.mine_helper")
        )
        archive.writestr("wheel_example/mine_helper.py", HELPER)
        archive.writestr("wheel_example-1.dist-info/entry_points.txt", "[clarena]\nexample = wheel_example\n")
        archive.writestr("wheel_example-1.dist-info/RECORD", "")
    source = gather(wheel)
    assert source.entry == "wheel_example"
    assert "wheel_example-1.dist-info/RECORD" not in source.files
    assert choose_strategy(host_of(source, tmp_path / "copy"), source, None) == "mine"
    with zipfile.ZipFile(tmp_path / "none.whl", "w") as archive:
        archive.writestr("a/__init__.py", "")
    with pytest.raises(UsageError, match="has 0 entry points"):
        gather(tmp_path / "none.whl")
    (tmp_path / "broken.whl").write_bytes(b"PK")
    with pytest.raises(UsageError, match="not a wheel that can be read"):
        gather(tmp_path / "broken.whl")


def test_what_is_no_source_is_refused(tmp_path, monkeypatch):
    for target in (tmp_path / "nowhere.py", tmp_path, write_plugin(tmp_path).with_name("mine.txt")):
        with pytest.raises(UsageError, match="is no plugin"):
            gather(target)
    with pytest.raises(UsageError, match=r"is no Python: .* \(at line 1\)"):
        gather(write_plugin(tmp_path, "def", "broken.py"))
    package = tmp_path / "pack"
    write_plugin(package, "", "__init__.py")
    (package / "my weights.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match="letters, digits"):
        gather(package)
    (package / "my weights.pt").rename(package / "weights.pt")
    monkeypatch.setattr(sources, "MOST_FILE_BYTES", 0)
    with pytest.raises(UsageError, match="Weights and data are no part of a submission"):
        gather(package)


def test_a_plugin_that_needs_what_is_not_submitted_is_said_not_to_load(tmp_path):
    """A folder beside it is no helper that its hash covers."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("")
    source = gather(write_plugin(tmp_path, f"import tools\n{PLUGIN}"))
    host = host_of(source, tmp_path / "copy")
    with pytest.raises(UsageError, match=r"cannot be loaded from a bundle: .*No module named 'tools'"):
        choose_strategy(host, source, None)


def test_tracks_are_read():
    assert read_track("split-digits/class") == TrackChoice("split-digits", "class", "mlp", "standard")
    assert read_track("split-digits/task/cnn/online") == TrackChoice("split-digits", "task", "cnn", "online")
    for text in ("split-digits", "a/b/c/d/e", "a//class", ""):
        with pytest.raises(UsageError, match="cannot be read"):
            read_track(text)
    with pytest.raises(UsageError, match="no scenario named 'klass'"):
        read_track("split-digits/klass")
    with pytest.raises(UsageError, match="Did you mean 'online'"):
        read_track("split-digits/class/mlp/onlin")


def test_options_come_before_the_file_and_what_is_missing_is_named(tmp_path):
    beside = tmp_path / "mine.toml"
    with pytest.raises(UsageError, match=r"(?s)Not said: authors, licence.*--author.*mine.toml"):
        read_about(beside, {})
    beside.write_text('authors = ["Ada", "Charles"]\nlicence = "MIT"\npaper = "https://example.org"\n')
    about = read_about(beside, {"licence": "Apache-2.0", "authors": None})
    assert (about.authors, about.licence, about.paper) == (["Ada", "Charles"], "Apache-2.0", "https://example.org")
    beside.write_text('authors = "Ada"\nlicence = "MIT"\n')
    with pytest.raises(UsageError, match="Not valid: authors"):
        read_about(beside, {})
    beside.write_text("authors = [")
    with pytest.raises(UsageError, match="cannot be read"):
        read_about(beside, {})


def test_of_several_strategies_one_must_be_chosen(tmp_path):
    two = PLUGIN.replace("    register(Mine)", "    register(Mine)\n    register(type('Other', (Mine,), OTHER))")
    source = gather(write_plugin(tmp_path, two + "\n\nOTHER = {'name': 'other', '__doc__': 'Another.'}\n"))
    host = host_of(source, tmp_path / "copy")
    with pytest.raises(UsageError, match=r"offers mine, other\. Say which: --strategy mine"):
        choose_strategy(host, source, None)
    assert choose_strategy(host, source, "other") == "other"
    empty = gather(
        write_plugin(
            tmp_path,
            "import clarena\n\n\n@clarena.hookimpl\ndef clarena_register_benchmarks(register):\n    pass\n",
            "empty.py",
        )
    )
    with pytest.raises(UsageError, match="registers no strategy"):
        choose_strategy(host_of(empty, tmp_path / "copy2"), empty, None)


@pytest.mark.parametrize(
    ("change", "track", "said"),
    [
        (
            ('name = "mine"', 'name = "mine"\n    needs = frozenset({"past_data"})'),
            "split-digits/class",
            "never ranked",
        ),
        (('name = "mine"', 'name = "mine"\n    off = {}'), "split-digits/class", "never ranked"),
        (('name = "mine"', 'name = "ewc"'), "split-digits/class", "ewc is a strategy of CLArena"),
        (("", ""), "split-stars/class", "no benchmark named"),
        (("", ""), "mine-bench/class", "mine-bench comes with a plugin: a verifier does not have it"),
        (("", ""), "split-digits/class/resnet", "no backbone named"),
    ],
)
def test_what_could_not_be_ranked_is_refused(tmp_path, change, track, said):
    bench = '''

from clarena import Benchmark


class Bench(Benchmark):
    """Of my own."""

    name = "mine-bench"
    scenarios = ("class",)


@hookimpl
def clarena_register_benchmarks(register):
    register(Bench)
'''
    source = gather(write_plugin(tmp_path, PLUGIN.replace(*change, 1) + bench))
    host = host_of(source, tmp_path / "copy")
    called = choose_strategy(host, source, None)
    with pytest.raises(UsageError, match=said):
        refuse(host, called, host.strategy(called), [read_track(track)], [0])
    if change == ("", ""):
        refuse(host, called, host.strategy(called), [read_track("split-digits/class")], [0])
