"""No step waits for the device; see `waits`."""

import pytest
import torch
from tiny import walk
from waits import Waits, waits_of

from clarena import GradientStrategy, as_given
from clarena.plugins.host import Host

HIDDEN = {"boundaries": "hidden", "optimizer_state": "kept"}


class TwoViews(GradientStrategy):
    """Learns from a view of its own besides."""

    name = "two-views"

    def loss(self, batch):
        with as_given():
            scores = self.model(batch.view())
        return super().loss(batch) + (scores - batch.scores).square().mean()


def test_what_waits_is_counted_and_what_does_not_is_not():
    device, host = torch.arange(4.0), torch.arange(4)
    with Waits([device]) as waits:
        made = device * 2
        made[host], made.index_select(0, host), made.sum() + 1, host.tolist(), host.unique()
    assert waits.count == 0
    with Waits([device]) as waits:
        made = device * 2
        float(made.sum()), made.tolist(), made.numpy(), bool(made[0] > 0), made[made > 1], made.unique()
    assert waits.count == 6
    assert all("test_waits.py" in place for place in waits.places)


@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize("name", ["finetune", "er", "ewc", "si", "lwf", "der", "expand", "ewc+lwf"])
def test_three_times_the_steps_wait_no_more_often(name, scenario):
    strategy = Host.discover().strategy(name)
    once, thrice = (waits_of(walk(strategy, scenario, epochs=epochs)) for epochs in (1, 3))
    assert thrice == once


@pytest.mark.parametrize("name", ["finetune", "er", "ewc+gem", "lwf", "gdumb", "pnn"])
def test_nor_do_steps_that_are_scheduled_clipped_and_made_in_parts(name):
    protocol = {"schedule": "cosine", "warmup": 1, "clip_norm": 0.5, "accumulation": 2, "epochs": 4}
    strategy = Host.discover().strategy(name)
    plain, ours = (walk(strategy, "task", **changes) for changes in ({"epochs": 4}, protocol))
    assert waits_of(ours) == waits_of(plain)


@pytest.mark.parametrize("kind", ["crop-flip", "contrastive"])
def test_nor_do_views(kind):
    once, thrice = (waits_of(walk(TwoViews, augmentation=kind, epochs=epochs)) for epochs in (1, 3))
    assert thrice == once


@pytest.mark.parametrize("name", ["finetune", "er", "der"])
def test_labels_that_show_as_they_come_are_looked_up_on_the_host(name):
    """Where boundaries are hidden, each batch may show a new one."""
    assert waits_of(walk(Host.discover().strategy(name), epochs=2, **HIDDEN)) == {}
