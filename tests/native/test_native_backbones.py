"""Every native strategy through the whole conformance kit on both native backbones, with and without BatchNorm.

A few combinations always run; all of them are a matrix, and the slow part. There the meta-learning line, which takes
ten times as long as others, has one scenario for each backbone.
"""

import pytest
from clarena_native.backbones.small import Cnn, Mlp

from clarena import GradientStrategy
from clarena.checks import Suite, summary
from clarena.checks.restart import Restart
from clarena.plugins.composite import overrides
from clarena.plugins.host import Host, PluginSources

STRATEGIES = Host.discover(PluginSources(third_party=False)).strategies
SIZES = {Mlp: {"hidden": (24, 24)}, Cnn: {"widths": (8,), "features": 32}}
SEQUENTIAL = {(Mlp, "none"): "domain", (Mlp, "batch"): "task", (Cnn, "none"): "task", (Cnn, "batch"): "class"}


def suites(backbone, norm, names=None, scenario=None):
    """A suite for each strategy on this backbone; one new process serves them all."""
    made = []
    for cls in map(STRATEGIES.load, names or [entry.name for entry in STRATEGIES if entry.plugin == "native"]):
        slow = issubclass(cls, GradientStrategy) and overrides(cls, "step")
        only = scenario or (SEQUENTIAL[backbone, norm] if slow else None)
        made.append(Suite(cls, only and [only], backbone, SIZES[backbone] | {"norm": norm}))
    restart = Restart([subject for suite in made for subject in suite.subjects.values()])
    for suite in made:
        suite.restart = restart
    return made


def label(suite):
    subject = next(iter(suite.subjects.values()))
    return f"{suite.strategy.name}-{subject.backbone.name}-{subject.options['norm']}"


def keeps_every_rule(suite):
    results = [suite.result(*case) for case in suite.cases]
    assert all(result.outcome in ("passed", "not_applicable") for result in results), summary(suite.strategy, results)
    refused = {result.message for result in results if result.name == "runs" and result.outcome == "not_applicable"}
    norm = next(iter(suite.subjects.values())).options["norm"]
    if "tokens" in suite.strategy.needs or suite.strategy.name in ("aper", "ease"):  # which add to blocks of tokens
        assert [message for message in refused if "works on no tokens" in message] == list(refused) != []
    elif "adapters" in suite.strategy.needs:
        assert [message for message in refused if "to which LoRA could be added" in message] == list(refused) != []
    elif suite.strategy.name == "den" and norm != "none":  # units come and go, and statistics over them would move
        assert [message for message in refused if "den adds and removes units" in message] == list(refused) != []
    else:
        assert not refused


@pytest.mark.parametrize("suite", suites(Cnn, "batch", ["den", "gem", "icarl", "lwf"], "task"), ids=label)
def test_some_on_images_with_batch_norm(suite):
    keeps_every_rule(suite)


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("suite", [suite for place in SEQUENTIAL for suite in suites(*place)], ids=label)
def test_all_on_every_backbone(suite):
    keeps_every_rule(suite)
