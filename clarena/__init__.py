"""CLArena: one protocol on which continual-learning methods are compared.

Names that need torch are imported when they are first asked for, so that `clarena --help` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clarena.errors import (
    ClarenaError,
    ClarenaWarning,
    DataError,
    DivergedError,
    PluginError,
    StoreError,
    UsageError,
    unknown_name,
)
from clarena.hookspecs import hookimpl

if TYPE_CHECKING:
    from clarena.backbone import Backbone, Head, Model
    from clarena.benchmark import (
        Benchmark,
        Data,
        Split,
        Stream,
        same_classes,
        split_by_class,
        split_by_domain,
        split_by_groups,
    )
    from clarena.buffer import ReplayBuffer
    from clarena.downloads import data_root, fetch
    from clarena.evaluation import Results, evaluate
    from clarena.experience import Batch, Experience, cross_entropy
    from clarena.gradients import fisher_diagonal, output_norm_sensitivity
    from clarena.modules import BatchNorm, Frozen, evaluating
    from clarena.protocol import Protocol, Scenario, Track
    from clarena.records import Record
    from clarena.registry import family_member
    from clarena.store import Store
    from clarena.strategy import Context, Strategy
    from clarena.training import GradientStrategy

__version__ = "0.1.0"

_LAZY = {
    "Backbone": "clarena.backbone",
    "Batch": "clarena.experience",
    "BatchNorm": "clarena.modules",
    "Benchmark": "clarena.benchmark",
    "Context": "clarena.strategy",
    "Data": "clarena.benchmark",
    "Experience": "clarena.experience",
    "Frozen": "clarena.modules",
    "GradientStrategy": "clarena.training",
    "Head": "clarena.backbone",
    "Model": "clarena.backbone",
    "Protocol": "clarena.protocol",
    "Record": "clarena.records",
    "ReplayBuffer": "clarena.buffer",
    "Results": "clarena.evaluation",
    "Scenario": "clarena.protocol",
    "Split": "clarena.benchmark",
    "Store": "clarena.store",
    "Strategy": "clarena.strategy",
    "Stream": "clarena.benchmark",
    "Track": "clarena.protocol",
    "cross_entropy": "clarena.experience",
    "data_root": "clarena.downloads",
    "evaluate": "clarena.evaluation",
    "evaluating": "clarena.modules",
    "family_member": "clarena.registry",
    "fetch": "clarena.downloads",
    "fisher_diagonal": "clarena.gradients",
    "output_norm_sensitivity": "clarena.gradients",
    "same_classes": "clarena.benchmark",
    "split_by_domain": "clarena.benchmark",
    "split_by_groups": "clarena.benchmark",
    "split_by_class": "clarena.benchmark",
}

__all__ = [
    "Backbone",
    "Batch",
    "BatchNorm",
    "Benchmark",
    "ClarenaError",
    "ClarenaWarning",
    "Context",
    "Data",
    "DataError",
    "DivergedError",
    "Experience",
    "Frozen",
    "GradientStrategy",
    "Head",
    "Model",
    "PluginError",
    "Protocol",
    "Record",
    "ReplayBuffer",
    "Results",
    "Scenario",
    "Split",
    "Store",
    "StoreError",
    "Strategy",
    "Stream",
    "Track",
    "UsageError",
    "cross_entropy",
    "data_root",
    "evaluate",
    "evaluating",
    "family_member",
    "fetch",
    "fisher_diagonal",
    "hookimpl",
    "output_norm_sensitivity",
    "same_classes",
    "split_by_class",
    "split_by_domain",
    "split_by_groups",
    "unknown_name",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'clarena' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
