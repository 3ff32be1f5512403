"""A row of another target, with scores at several positions and cells by output, is verified like any other."""

from pathlib import Path

import made_pixels
import numpy as np
import pytest
from submissions import PLUGIN, reseal, submit, write_plugin
from test_submission_verify import notes, state, trusted

from clarena.plugins.host import Host, PluginSources
from clarena.run.evaluation import carry_out
from clarena.submission import verify as verification
from clarena.submission.verify import verify

PIXELS = Path(made_pixels.__file__)
HOOKS = "from made_pixels import clarena_register_backbones, clarena_register_benchmarks, clarena_register_targets\n"


@pytest.mark.slow
def test_pixels_are_verified_in_earnest(tmp_path, monkeypatch):
    plugin = write_plugin(tmp_path / "plugin", PLUGIN.replace("from mine_helper", HOOKS + "from mine_helper"))
    (plugin.parent / PIXELS.name).write_text(PIXELS.read_text())
    options = {"benchmark": "squares", "backbone": "pixel-net", "settings": {"protocol": {"epochs": 2}}}
    content = submit(plugin, tmp_path / "runs", **options)
    known = PluginSources(third_party=False, files=(PIXELS,))
    monkeypatch.setattr(verification, "built_in_host", lambda: Host.discover(known))
    path = reseal(content, tmp_path, lambda parts: None)

    def here(plan, names):  # a class made of one of a plugin's file cannot go into a worker process
        return carry_out(plan, plan.works[0].store, jobs=1, track=False).records

    verdict = verify(path, trusted(tmp_path, hidden=6), here)
    assert [rerun.identical for rerun in verdict.reruns] == [True] * 5, notes(verdict)
    assert {(row.strategy, len(row.runs)) for row in verdict.hidden} == {("mine", 6), ("finetune", 6), ("joint", 6)}
    assert all(run.status == "finished" for row in verdict.hidden for run in row.runs)
    assert np.isfinite([run.metric("final_average_accuracy") for row in verdict.hidden for run in row.runs]).all()
    # All else is borne out; of a score that is no accuracy no bound of chance is known.
    assert {name for name, each in state(verdict).items() if each != "passed"} == {"canary"}, notes(verdict)
    assert verdict.outcome == "incomplete"
