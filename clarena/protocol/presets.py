"""Protocols by name: what each sets, and where a paper's settings were read. Imports nothing of the host."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FINAL = "final_average_accuracy"
"""The headline of a track of which nothing else is said."""


@dataclass(frozen=True)
class Preset:
    """Fields of the protocol and, for a paper's, options of the benchmark that go with them.

    Attributes:
        summary: one sentence.
        protocol: the fields that are not at their default.
        benchmark: options of a benchmark that splits classes.
        on: the benchmark that the paper has.
        source: where the settings were read, and what of the paper's is otherwise here.
        headline: the metric that the paper's tables compare by.
    """

    summary: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    on: str = ""
    source: str = ""
    headline: str = FINAL


_PYCIL = {
    "epochs": 170,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "schedule": "milestones",
    "milestones": (80, 120),
    "gamma": 0.1,
    "augmentation": "crop-flip",
}
_PYCIL_SOURCE = (
    "PyCIL (Zhou et al. 2021, arXiv:2112.12533) at f3509b8: models/icarl.py, utils/data.py, {}. There a method may "
    "have passes and milestones of its own (replay 70, finetune 80, lwf 250), and the first experience has 200 passes "
    "with milestones at 60, 120, 170 and weight decay 5e-4; here all are as iCaRL's later experiences. There images "
    "are also brightened by chance, and the network is a ResNet-32: here choose one with --backbone."
)

_PYCIL_HEADLINE = "average_incremental_pooled_accuracy"
"""What trainer.py prints: the mean over experiences of the accuracy on all test samples of classes seen."""

_ONLINE = {
    "epochs": 1,
    "batch_size": 10,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "augmentation": "crop-flip",
    "heads": "full",
    "loss_over": "all",
    "stream_length": "known",
}
_ONLINE_SOURCE = (
    "ER-ACE (Caccia et al. 2022, arXiv:2104.05025), the authors' code pclucas14/AML: main.py at 084337b, "
    "data/cifar.py. Its buffer has 20 places for each class of the whole stream, from the start. The network there is "
    "a ResNet-18 of width 20: --backbone resnet18 --set backbone.width=20."
)

NAMED: dict[str, Preset] = {
    "standard": Preset("Ten passes over the data; what is ranked where nothing else is said."),
    "online": Preset("One pass over the data in batches of 10.", {"epochs": 1, "batch_size": 10}),
    "smoke": Preset("A few samples, in seconds; never ranked.", {"epochs": 1, "limit": 64}),
    "b0-inc10": Preset(
        "CIFAR-100 in 10 experiences of 10 classes, iCaRL's order, 170 passes, 2,000 exemplars.",
        _PYCIL | {"buffer_size": 2000},
        {"experiences": 10, "class_order": "icarl"},
        "split-cifar100",
        _PYCIL_SOURCE.format("exps/icarl.json"),
        _PYCIL_HEADLINE,
    ),
    "b50-inc10": Preset(
        "CIFAR-100 in 50 classes and 5 experiences of 10, iCaRL's order, 170 passes, 20 exemplars a class.",
        _PYCIL | {"exemplars_per_class": 20},
        {"experiences": 6, "first_experience": 50, "class_order": "icarl"},
        "split-cifar100",
        _PYCIL_SOURCE.format("exps/foster.json"),
        _PYCIL_HEADLINE,
    ),
    "b50-inc5": Preset(
        "CIFAR-100 in 50 classes and 10 experiences of 5, iCaRL's order, 170 passes, 20 exemplars a class.",
        _PYCIL | {"exemplars_per_class": 20},
        {"experiences": 11, "first_experience": 50, "class_order": "icarl"},
        "split-cifar100",
        _PYCIL_SOURCE.format("exps/il2a.json (the split; the exemplars as in exps/foster.json)"),
        _PYCIL_HEADLINE,
    ),
    "online-cifar10": Preset(
        "CIFAR-10 in 5 experiences of 2 classes, one pass in batches of 10, 200 exemplars.",
        _ONLINE | {"buffer_size": 200},
        {"experiences": 5},
        "split-cifar10",
        _ONLINE_SOURCE,
    ),
    "online-cifar100": Preset(
        "CIFAR-100 in 20 experiences of 5 classes, one pass in batches of 10, 2,000 exemplars.",
        _ONLINE | {"buffer_size": 2000},
        {"experiences": 20},
        "split-cifar100",
        _ONLINE_SOURCE,
    ),
}
