"""What tells of the work does not stop it: listeners that raise, full outputs, signs that an encoding lacks."""

import os
import subprocess
import sys
import warnings

import pytest

from clarena import ClarenaWarning, evaluate
from clarena.record.store import Store
from clarena.run.output import _in_ascii, harmless


@pytest.mark.parametrize(
    ("character", "text"),
    {"λ": "lambda", "Σ": "sum", "θ": "theta", "²": "^2", "ᵢ": "_i", "é": "e", "½": "1/2", "±": "+-", "語": "?"}.items(),
)
def test_signs_in_ascii(character, text):
    assert _in_ascii(character) == text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
@pytest.mark.parametrize(
    ("redirection", "code"),
    [("2>/dev/full", 0), (">/dev/full", 1), (">&- 2>&- <&-", 0), ("2>&- | true; exit ${PIPESTATUS[0]}", 0)],
)
def test_outputs_that_cannot_be_written_stop_no_run(tmp_path, redirection, code):
    """All runs are stored, in worker processes whose prints fail; the exit status says that the table was lost."""
    (tmp_path / "talks.py").write_text(
        "from clarena import GradientStrategy, hookimpl\n\n\nclass Talks(GradientStrategy):\n"
        '    """Prints."""\n\n    name = "talks"\n\n'
        "    def before_experience(self, experience):\n        print('learning', flush=True)\n\n\n"
        "@hookimpl\ndef clarena_register_strategies(register):\n    register(Talks)\n"
    )
    command = (
        f"{sys.executable} -c 'from clarena.cli import main; main()' evaluate talks --plugin talks.py --seeds 1 "
        f"--protocol smoke --limit 16 --no-tracking --jobs 2 {redirection}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    records, damaged = Store(tmp_path / "runs").records()
    assert [record.status for record in records] == ["finished"]
    assert not damaged
    if redirection == ">/dev/full":
        assert "The output could not be written: No space left on device. What was run is stored." in done.stderr


def test_a_listener_that_raises_is_dropped_with_one_warning(tmp_path):
    heard = []

    def listen(event):
        heard.append(event.kind)
        raise OSError("no space")

    with pytest.warns(ClarenaWarning, match=r"told no more \(OSError: no space\)\. The runs go on") as caught:
        results = evaluate(
            "finetune", seeds=2, protocol="smoke", limit=16, jobs=1, store=tmp_path, track=False, listener=listen
        )
    assert [record.status for record in results] == ["finished", "finished"]
    assert heard == ["started"]
    assert len(caught) == 1


def test_a_listener_may_ask_for_the_end():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harmless(stop)(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard = []
        tell = harmless(heard.append)
        tell(1)
        tell(2)
    assert heard == [1, 2]


SAYING = """
import os, sys
from clarena.run.output import shield
shield()
print("a warning", file=sys.stderr)
os._exit(0)  # nothing is flushed any more
"""


def test_what_is_said_on_stderr_is_in_a_file_at_once(tmp_path):
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", SAYING], stderr=log, check=True)
    assert (tmp_path / "log").read_text() == "a warning\n"
