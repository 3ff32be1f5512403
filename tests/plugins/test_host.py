"""The plugin host: every fault stays in its plugin and is reported, and names mean one thing."""

import importlib.metadata
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clarena import hookspecs
from clarena.errors import UnknownNameError, UsageError
from clarena.hookspecs import Register
from clarena.plugins.host import KINDS, Host, PluginSources

FAULTY = Path(__file__).parents[1] / "faulty_plugins"
ROOT = Path(__file__).parents[2]

# What each faulty plugin is reported for, and at which of its lines where there is one to look at.
REASONS = {
    "bad_reference": ("'json.JSONDecoder' is not a reference of the form 'package.module:Class'", 8),
    "duplicate_name": ("it registers the strategy 'twice' twice", 9),
    "exits_at_import": ("SystemExit: no licence found", 5),
    "exits_in_hook": ("SystemExit: 3", 8),
    "import_error": ("ImportError: cannot import name 'no_such_function' from 'json'", 3),
    "instance": ("Instance() is not a strategy: register a subclass of Strategy", 14),
    "lazy_without_summary": ("the lazy reference 'json:JSONDecoder' needs a name and a summary", 8),
    "missing_dependency": ("ModuleNotFoundError: No module named 'package_that_is_not_installed'", 3),
    "misspelled_hook": ("no hook clarena_register_strategy; did you mean clarena_register_strategies?", None),
    "nameless": ("cannot be named None: use lower-case letters", 12),
    "no_argument": ("the hook clarena_register_strategies must take one argument, register, not ()", None),
    "no_hooks": ("it has no hook: write @clarena.hookimpl above a function clarena_register_", None),
    "other_prefix": ("cannot be named 'native/ewc': use", 8),
    "raises_half_way": ("KeyError: 'absent'", 18),
    "returns_instead": ("must call register and return nothing, not 'json:JSONDecoder'", None),
    "scoring_of_a_strategy": ("the strategy 'judge' is given a scoring, which only targets have", 8),
    "scoring_of_another_kind": ("the scoring of the target 'odd' is <class 'dict'>: give a subclass of Scoring, or", 8),
    "syntax_error": ("SyntaxError: ", 4),
    "target_without_scoring": ("the target 'half' needs its other half: register(…, scoring=…)", 8),
    "undocumented": ("the strategy 'undocumented' needs a docstring or a summary", 12),
    "unmarked_hook": ("clarena_register_strategies is not marked as a hook: write @clarena.hookimpl", None),
    "unprintable_error": ("Unprintable: <exception str() failed>", 9),
    "upper_case": ("cannot be named 'Upper Case': use lower-case letters", 8),
    "wrong_argument": ("must take one argument, register, not (registry)", None),
    "wrong_kind": ("NotAStrategy'> is not a strategy: register a subclass of Strategy", 14),
    "yields_instead": ("must call register and return nothing, not <generator", None),
}

ENTRY = """
    from clarena import hookimpl

    @hookimpl
    def clarena_register_strategies(register):
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of installed distributions, in place of whatever this machine has."""
    folder = tmp_path / "site"
    folder.mkdir()
    distributions = partial(importlib.metadata.distributions, path=[str(folder)])
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.delenv("CLARENA_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write_plugin(path: Path, *names: str) -> Path:
    """A plugin that offers lazy strategies of these names; none of them can be imported."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"register('{path.stem}.absent:Thing', name={name!r}, summary='Is {name}.')" for name in names]
    body = textwrap.dedent(ENTRY) + textwrap.indent("\n".join(lines), "    ")
    path.write_text(body)
    return path


def install(site: Path, distribution: str, points: dict[str, str], metadata: bool = True) -> None:
    """What an installer leaves behind of a distribution with these entry points."""
    folder = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    folder.mkdir()
    if metadata:
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[clarena]", *lines]))


def reasons(host: Host) -> dict[str, str]:
    return {broken.plugin: broken.reason for broken in host.broken}


# ---- Faulty plugins ----


@pytest.fixture
def faulty() -> Host:
    return Host.discover(PluginSources(directories=[FAULTY], third_party=False))


def test_every_faulty_plugin_has_an_expected_reason() -> None:
    assert {path.stem for path in FAULTY.glob("*.py")} == {*REASONS, "good"}


@pytest.mark.parametrize("plugin", sorted(REASONS))
def test_fault_is_reported_by_name_with_its_reason(faulty: Host, plugin: str) -> None:
    broken = next(broken for broken in faulty.broken if broken.plugin == plugin)
    text, line = REASONS[plugin]
    assert text in broken.reason
    assert broken.reason.endswith(f" (at line {line} of {plugin}.py)") == (line is not None)
    assert "\n" not in broken.reason
    assert broken.origin == str(FAULTY / f"{plugin}.py")
    assert broken.traceback.startswith("Traceback (most recent call last):")


def test_no_fault_hides_the_good_plugin_and_nothing_is_half_registered(faulty: Host) -> None:
    assert set(faulty.plugins) == {"good"}
    assert faulty.strategies.names() == ["good", "lazy"]
    assert faulty.backbones.names() == faulty.benchmarks.names() == []
    assert faulty.strategies.load("good").name == "good"
    assert faulty.strategies.load("good/lazy").name == "lazy"


def test_a_file_that_fails_at_import_leaves_no_module(faulty: Host) -> None:
    at_import = {"exits_at_import", "import_error", "missing_dependency", "syntax_error", "unprintable_error"}
    held = {name.removeprefix("clarena_plugin_").rpartition("_")[0] for name in sys.modules}
    assert "good" in held
    assert not held & at_import


def test_interrupt_passes_through_and_leaves_no_module(tmp_path: Path) -> None:
    path = tmp_path / "interrupted.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Host.discover(PluginSources(files=[path]))
    assert not [name for name in sys.modules if "interrupted" in name]


def test_unknown_name_says_the_closest_what_exists_and_what_failed(faulty: Host) -> None:
    with pytest.raises(UnknownNameError) as caught:
        faulty.strategies.entry("goood")
    message = str(caught.value)
    assert "Did you mean 'good'?" in message
    assert "Known: good, lazy." in message
    for broken in faulty.broken:
        assert f"{broken.plugin} ({broken.origin})" in message
        assert broken.reason in message


# ---- Where plugins come from ----


def test_every_way_in(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "clarena-bench", {"native": "shipped"})
    install(site, "elsewhere", {"pack": "packaged"})
    for stem in ("shipped", "packaged", "asked", "ambient"):
        write_plugin(site / f"{stem}.py", f"by_{stem}")
    file = write_plugin(tmp_path / "one.py", "by_file")
    write_plugin(tmp_path / "many" / "first.py", "by_directory")
    write_plugin(tmp_path / "many" / "_helper.py", "hidden")
    ambient_file = write_plugin(tmp_path / "two.py", "by_ambient_file")
    monkeypatch.setenv("CLARENA_PLUGINS", f"ambient, {ambient_file},")
    requested = PluginSources(files=[file], directories=[tmp_path / "many"], modules=["asked"])

    host = Host.discover(requested)
    assert host.plugins == {
        "native": "clarena-bench 1.2",
        "one": str(file),
        "first": str(tmp_path / "many" / "first.py"),
        "pack": "elsewhere 1.2",
        "asked": "module asked",
        "ambient": "module ambient",
        "two": str(ambient_file),
    }
    assert not host.broken
    assert [entry.origin for entry in host.strategies if entry.name == "by_packaged"] == ["elsewhere 1.2"]

    closed = Host.discover(PluginSources(requested.files, requested.directories, requested.modules, third_party=False))
    assert set(closed.plugins) == {"native", "one", "first", "asked"}


def test_one_plugin_reached_twice_is_loaded_once(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "elsewhere", {"pack": "packaged"})
    write_plugin(site / "packaged.py", "thing")
    file = write_plugin(tmp_path / "many" / "one.py", "other")
    monkeypatch.setenv("CLARENA_PLUGINS", f"packaged,{file}")
    host = Host.discover(PluginSources(files=[file, file], directories=[file.parent], modules=["packaged"]))
    assert set(host.plugins) == {"one", "pack"}
    assert host.strategies.names() == ["other", "thing"]
    assert not host.broken


def test_what_was_asked_for_must_exist(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for sources in (
        PluginSources(files=[tmp_path / "absent.py"]),
        PluginSources(files=[tmp_path / "notes.txt"]),
        PluginSources(files=[tmp_path]),
        PluginSources(directories=[tmp_path / "absent"]),
    ):
        with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
            Host.discover(sources)


def test_what_the_environment_names_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARENA_PLUGINS", f"no_such_module,{tmp_path}/absent.py")
    found = reasons(Host.discover())
    assert found["no_such_module"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert found["absent"].startswith("FileNotFoundError: ")


def test_a_name_shared_by_two_plugins_goes_to_the_first(site: Path, tmp_path: Path) -> None:
    install(site, "alpha", {"same": "alpha_plugin"})
    install(site, "beta", {"same": "beta_plugin"})
    write_plugin(site / "alpha_plugin.py", "a")
    write_plugin(site / "beta_plugin.py", "b")
    first = write_plugin(tmp_path / "x" / "mine.py", "first")
    second = write_plugin(tmp_path / "y" / "mine.py", "second")
    host = Host.discover(PluginSources(files=[first, second]))
    assert host.strategies.names() == ["a", "first"]
    assert [(broken.plugin, broken.origin) for broken in host.broken] == [
        ("mine", str(second)),
        ("same", "beta 1.2"),
    ]
    assert f"the plugin name 'mine' is taken by {first}; rename one" in host.broken[0].reason
    assert "the plugin name 'same' is taken by alpha 1.2; rename one" in host.broken[1].reason


def test_damaged_distributions_hide_no_other(site: Path) -> None:
    install(site, "healthy", {"well": "well_plugin"})
    write_plugin(site / "well_plugin.py", "well")
    install(site, "nowhere", {"gone": "module_that_is_gone"})
    install(site, "malformed", {"odd": "not a reference!"})
    install(site, "anonymous", {"lost": "well_plugin"}, metadata=False)
    install(site, "garbled", {"ok": "well_plugin"})
    (site / "garbled-1.2.dist-info" / "entry_points.txt").write_text("[clarena]\nno equals sign here\n")
    install(site, "unrelated", {})
    (site / "unrelated-1.2.dist-info" / "entry_points.txt").write_text("[other]\nno equals sign here\n")
    host = Host.discover()
    assert host.strategies.names() == ["well"]
    found = reasons(host)
    assert found["gone"] == "ModuleNotFoundError: No module named 'module_that_is_gone'"
    assert set(found) - {"unnamed distribution"} == {"gone", "odd", "garbled"}
    assert all(broken.origin for broken in host.broken)


def test_second_copy_of_a_distribution_is_the_same_distribution(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "Else.Where", {"pack": "packaged"})
    write_plugin(site / "packaged.py", "thing")
    (tmp_path / "older").mkdir()
    install(tmp_path / "older", "else-where", {"pack": "old_packaged"})
    both = [str(site), str(tmp_path / "older")]
    monkeypatch.setattr(
        importlib.metadata, "distributions", partial(importlib.metadata.Distribution.discover, path=both)
    )
    host = Host.discover()
    assert host.plugins == {"pack": "else-where 1.2"}
    assert not host.broken


def test_an_edited_file_is_run_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "draft.py", "before")
    with path.open("a") as file:
        file.write("\n    global counter\n    counter = globals().get('counter', 0) + 1")
        file.write("\n    register('a.b:C', name=f'run{counter}', summary='Counts.')")
    sources = PluginSources(files=[path])
    assert Host.discover(sources).strategies.names() == ["before", "run1"]
    assert Host.discover(sources).strategies.names() == ["before", "run2"]
    path.write_text(path.read_text().replace("before", "afterw"))
    assert Host.discover(sources).strategies.names() == ["afterw", "run1"]


def test_another_process_finds_the_same_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FAULTY)
    sources = PluginSources(files=["good.py"], third_party=False)
    pickled = pickle.dumps((pickle.dumps(sources), pickle.dumps(Host.discover(sources).strategies.load("good"))))
    code = """
        import pickle, sys
        from clarena.plugins.host import Host
        sources, cls = pickle.load(sys.stdin.buffer)
        host = Host.discover(pickle.loads(sources))
        assert pickle.loads(cls) is host.strategies.load("good")
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, input=pickled, cwd=tmp_path, env=environment, check=True)


def test_natives_are_listed_without_anything_heavy(site: Path) -> None:
    install(site, "clarena-bench", {"native": "clarena_native"})
    code = """
        import sys
        from clarena.plugins.host import Host
        host = Host.discover()
        assert {"finetune", "joint", "ewc"} <= set(host.strategies.names()), host.broken
        assert not {"torch", "mlflow", "sklearn", "pandas"} & set(sys.modules)
    """
    paths = [str(site), str(ROOT), str(ROOT / "plugins"), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)


# ---- Names ----


def test_a_stranger_cannot_shadow_a_built_in(site: Path, tmp_path: Path) -> None:
    install(site, "clarena-bench", {"native": "shipped", "adapter": "adapted"})
    install(site, "aardvark", {"stranger": "foreign", "native": "impostor"})
    write_plugin(site / "shipped.py", "ewc")
    write_plugin(site / "adapted.py", "ewc", "gem")
    write_plugin(site / "foreign.py", "ewc", "gem", "new")
    write_plugin(site / "impostor.py", "ewc")
    file = write_plugin(tmp_path / "mine.py", "ewc")
    host = Host.discover(PluginSources(files=[file]))
    strategies = host.strategies
    assert strategies.names() == [
        "adapter/ewc",
        "ewc",
        "gem",
        "mine/ewc",
        "new",
        "stranger/ewc",
        "stranger/gem",
    ]
    assert strategies.entry("ewc").plugin == "native"
    assert strategies.entry("ewc") == strategies.entry("native/ewc")
    assert strategies.entry("gem").qualified == "adapter/gem"
    assert strategies.entry("stranger/new").name == "new"
    assert reasons(host) == {"native": "the plugin name 'native' is taken by clarena-bench 1.2; rename one"}


def test_two_strangers_with_one_name_are_told_apart_by_their_plugins(tmp_path: Path) -> None:
    files = [write_plugin(tmp_path / "a.py", "dream"), write_plugin(tmp_path / "b.py", "dream")]
    strategies = Host.discover(PluginSources(files=files)).strategies
    assert strategies.names() == ["a/dream", "b/dream"]
    with pytest.raises(UsageError, match=r"'dream' needs its plugin's name: say a/dream or b/dream\."):
        strategies.entry("dream")


def test_a_qualified_registration_claims_no_short_name(tmp_path: Path) -> None:
    strategies = Host.discover(PluginSources(files=[write_plugin(tmp_path / "a.py", "a/gem")])).strategies
    assert strategies.names() == ["a/gem"]
    with pytest.raises(UsageError, match="say a/gem"):
        strategies.entry("gem")


def test_one_name_may_be_of_several_kinds(tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "both.py", "mlp")
    path.write_text(path.read_text() + path.read_text().replace("_strategies", "_backbones"))
    host = Host.discover(PluginSources(files=[path]))
    assert host.strategies.names() == host.backbones.names() == ["mlp"]


# ---- The hooks as promised ----


def test_hooks_are_documented_and_have_the_promised_signature() -> None:
    hooks = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "clarena_spec")}
    assert set(hooks) == {kind.hook for kind in KINDS}
    for kind in KINDS:
        hook = hooks[kind.hook]
        assert str(inspect.signature(hook)) == "(register: clarena.hookspecs.Register) -> None"
        assert kind.base_name in (hook.__doc__ or "")


def test_register_is_documented_and_has_the_promised_signature() -> None:
    signature = inspect.signature(Register.__call__)
    assert str(signature) == (
        "(self, target: type[typing.Any] | str, *, name: str | None = None, summary: str | None = None, "
        "extra: str | None = None, scoring: type[typing.Any] | str | None = None) -> None"
    )
    for parameter in list(signature.parameters)[1:]:
        assert f"    {parameter}: " in (inspect.getdoc(Register.__call__) or "")


@pytest.mark.needs("importlib_metadata")
def test_the_backport_of_importlib_metadata_is_not_taken_for_the_plugin(site: Path) -> None:
    """Some packages import it, and from then on it is what finds distributions."""
    install(site, "nowhere", {"gone": "module_that_is_gone"})
    (broken,) = (each for each in Host.discover().broken if each.plugin == "gone")
    assert broken.reason == "ModuleNotFoundError: No module named 'module_that_is_gone'"
