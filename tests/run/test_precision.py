"""torch's switches of precision: whatever a caller has set, a run is exact, and all of it comes back."""

import random

import pytest
import torch
import troublemakers as trouble

from clarena import evaluate
from clarena.errors import ClarenaError
from clarena.plugins.host import PluginSources
from clarena.protocol.protocol import Protocol
from clarena.run.environment import configured

B = torch.backends
NEW = hasattr(B.cuda.matmul, "fp32_precision")
SWITCHES = {
    "all": B,
    "mkldnn": B.mkldnn,
    "cudnn": B.cudnn,
    **{f"mkldnn.{name}": getattr(B.mkldnn, name, None) for name in ("matmul", "conv", "rnn")},
    **{f"cudnn.{name}": getattr(B.cudnn, name, None) for name in ("conv", "rnn")},
    "cuda.matmul": B.cuda.matmul,
}
CUDA = torch.device("cuda")
PLUGIN = '''
"""A strategy whose module changes torch for everyone when it is imported."""

import torch

from clarena import GradientStrategy, hookimpl

{change}


class Rude(GradientStrategy):
    """Fine-tuning."""

    name = "rude"


@hookimpl
def clarena_register_strategies(register):
    register(Rude)
'''


def asked(ask):
    try:
        return ask()
    except RuntimeError:
        return "raises"


def state():
    """Everything that torch says of its precision, by both interfaces."""
    return {
        **{name: switch.fp32_precision for name, switch in SWITCHES.items() if NEW},
        "allow_tf32": asked(lambda: B.cuda.matmul.allow_tf32),
        "cudnn.allow_tf32": asked(lambda: B.cudnn.allow_tf32),
        "matmul": asked(torch.get_float32_matmul_precision),
    }


def changes():
    """Every way to change one switch."""
    for name, switch in SWITCHES.items() if NEW else ():
        for value in ("none", "ieee", "tf32", *(["bf16"] if name.startswith("mkldnn") else [])):
            yield lambda switch=switch, value=value: setattr(switch, "fp32_precision", value)
    for word in ("highest", "high", "medium"):
        yield lambda word=word: torch.set_float32_matmul_precision(word)
    for allowed in (False, True):
        yield lambda allowed=allowed: setattr(B.cuda.matmul, "allow_tf32", allowed)
        yield lambda allowed=allowed: setattr(B.cudnn, "allow_tf32", allowed)


@pytest.fixture(autouse=True)
def _as_at_first():
    yield
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    for switch in SWITCHES.values() if NEW else ():
        switch.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    B.cudnn.allow_tf32 = True


@pytest.mark.parametrize(("precision", "device"), [("float32", "cpu"), ("float32", "cuda"), ("tf32", "cuda")])
def test_whatever_was_set_the_protocol_holds_inside_and_all_of_it_comes_back(precision, device):
    """Also the flags of the old interface that it refuses to tell; inside, both interfaces can be asked."""
    rng, ways = random.Random(7), list(changes())
    rounded = precision == "tf32"
    for _ in range(400):
        for _ in range(rng.randint(1, 4)):
            rng.choice(ways)()
        before = state()
        with configured(Protocol(precision=precision), torch.device(device)):
            inside = state()
        assert inside["allow_tf32"] is rounded
        assert inside["matmul"] == ("high" if rounded else "highest")
        if device == "cuda":
            assert inside["cudnn.allow_tf32"] is rounded
        if NEW:
            names = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
            names += ("cuda.matmul", "cudnn.conv", "cudnn.rnn") if device == "cuda" else ()
            rough = {name for name in names if inside[name] not in ("none", "ieee")}
            assert rough == ({"mkldnn.matmul", "cuda.matmul", "cudnn.conv", "cudnn.rnn"} if rounded else set())
        assert state() == before


@pytest.mark.skipif(not NEW, reason="torch before 2.9 has one interface")
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_new_interface_anywhere_does_not_keep_a_run_from_finishing(tmp_path, jobs):
    """In this process, as in a notebook, and in a plugin that a worker imports."""
    plugin = tmp_path / "rude_plugin.py"
    plugin.write_text(PLUGIN.format(change='torch.backends.cuda.matmul.fp32_precision = "tf32"'))
    B.cuda.matmul.fp32_precision = "tf32"
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": jobs}
    results = evaluate("rude", seeds=2, store=tmp_path / "store", plugins=PluginSources(files=[plugin]), **options)
    assert results.errors == {}
    assert [record.status for record in results] == ["finished", "finished"]
    assert B.cuda.matmul.fp32_precision == "tf32"


def test_a_caller_who_lets_the_processor_round_gets_the_same_predictions(tmp_path):
    """Where it can (AMX, AVX512-BF16), "medium" moves every product; here it must not."""
    options = {"protocol": "smoke", "track": False, "jobs": 1, "seeds": 1}
    exact = evaluate("finetune", store=tmp_path / "exact", **options).records[0]
    torch.set_float32_matmul_precision("medium")
    rough = evaluate("finetune", store=tmp_path / "rough", **options).records[0]
    assert exact.predictions == rough.predictions
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("jobs", [1, 2])
def test_settings_that_cannot_be_made_end_in_a_record_that_says_so(tmp_path, jobs):
    """`disable_global_flags` forbids all changes for good; the next cells run as well."""
    plugin = tmp_path / "rude_plugin.py"
    plugin.write_text(PLUGIN.format(change="torch.backends.disable_global_flags()"))
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": jobs}
    results = evaluate("rude", seeds=3, store=tmp_path / "store", plugins=PluginSources(files=[plugin]), **options)
    assert results.errors == {}
    assert [record.status for record in results] == ["failed"] * 3
    assert "This process's settings of torch cannot be changed (RuntimeError: not allowed" in results.records[0].reason
    threads = torch.get_num_threads()
    with pytest.raises(ClarenaError, match="start Python afresh"), configured(Protocol()):
        pass
    assert torch.get_num_threads() == threads


def test_settings_that_cannot_be_put_back_are_said_and_the_record_is_there(tmp_path):
    heard = []

    class Freezes(trouble.Late):
        """Forbids changes of torch's flags."""

        name = "freezes"

        def trouble(self):
            torch.backends.disable_global_flags()

    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 1}
    results = evaluate(Freezes, seeds=1, store=tmp_path, listener=heard.append, **options)
    assert [record.status for record in results] == ["finished"]
    (said,) = [event.message for event in heard if event.kind == "warning"]
    assert "Settings of torch could not be put back (RuntimeError: not allowed" in said
