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
    from clarena.contract.augmentation import as_given
    from clarena.contract.backbone import Backbone, Head, Model, SeenData
    from clarena.contract.benchmark import (
        Benchmark,
        Split,
        Stream,
        same_classes,
        split_by_class,
        split_by_domain,
        split_by_groups,
    )
    from clarena.contract.classes import ClassOrder, ClassSizes, class_order, class_sizes
    from clarena.contract.data import Data
    from clarena.contract.experience import Batch, Experience
    from clarena.contract.samples import RowForm, Samples, held_out_rows, in_order, npz_arrays, read_pictures
    from clarena.contract.strategy import Context, Strategy
    from clarena.contract.target import Target
    from clarena.contract.training import GradientStrategy
    from clarena.contract.updater import Updater
    from clarena.plugins.registry import family_member
    from clarena.protocol.protocol import AugmentationKind, Protocol, Scenario, Track
    from clarena.record.metrics import Metric
    from clarena.record.predictions import Predictions
    from clarena.record.record import Record
    from clarena.record.scoring import Scope, Scoring
    from clarena.record.store import Store
    from clarena.run.continuing import continue_run
    from clarena.run.evaluation import Results, evaluate
    from clarena.run.trained import TrainedModel, load_model
    from clarena.toolbox.adapters import Adapters, Lora, Weight, added, observed
    from clarena.toolbox.attention import Tokens, around
    from clarena.toolbox.buffer import ReplayBuffer
    from clarena.toolbox.categorical import IGNORED, cross_entropy
    from clarena.toolbox.downloads import data_root, fetch, user_path
    from clarena.toolbox.files import file_stamps, readable_name, require_file
    from clarena.toolbox.gradients import fisher_diagonal, output_norm_sensitivity
    from clarena.toolbox.mapped import mapped
    from clarena.toolbox.modules import BatchNorm, Freezable, Frozen, evaluating
    from clarena.toolbox.pictures import IMAGES, Pictures, is_picture, require_memory
    from clarena.toolbox.together import each

__version__ = "0.2.0"

_LAZY = {
    "AugmentationKind": "clarena.protocol.protocol",
    "Adapters": "clarena.toolbox.adapters",
    "Backbone": "clarena.contract.backbone",
    "Batch": "clarena.contract.experience",
    "BatchNorm": "clarena.toolbox.modules",
    "Benchmark": "clarena.contract.benchmark",
    "ClassOrder": "clarena.contract.classes",
    "ClassSizes": "clarena.contract.classes",
    "Context": "clarena.contract.strategy",
    "Data": "clarena.contract.data",
    "Experience": "clarena.contract.experience",
    "Freezable": "clarena.toolbox.modules",
    "Frozen": "clarena.toolbox.modules",
    "GradientStrategy": "clarena.contract.training",
    "Head": "clarena.contract.backbone",
    "IGNORED": "clarena.toolbox.categorical",
    "IMAGES": "clarena.toolbox.pictures",
    "Lora": "clarena.toolbox.adapters",
    "Metric": "clarena.record.metrics",
    "Model": "clarena.contract.backbone",
    "Pictures": "clarena.toolbox.pictures",
    "Predictions": "clarena.record.predictions",
    "Protocol": "clarena.protocol.protocol",
    "Record": "clarena.record.record",
    "ReplayBuffer": "clarena.toolbox.buffer",
    "Results": "clarena.run.evaluation",
    "RowForm": "clarena.contract.samples",
    "Samples": "clarena.contract.samples",
    "Scenario": "clarena.protocol.protocol",
    "Scope": "clarena.record.scoring",
    "Scoring": "clarena.record.scoring",
    "SeenData": "clarena.contract.backbone",
    "Split": "clarena.contract.benchmark",
    "Store": "clarena.record.store",
    "Strategy": "clarena.contract.strategy",
    "Stream": "clarena.contract.benchmark",
    "Target": "clarena.contract.target",
    "Tokens": "clarena.toolbox.attention",
    "Track": "clarena.protocol.protocol",
    "TrainedModel": "clarena.run.trained",
    "Updater": "clarena.contract.updater",
    "as_given": "clarena.contract.augmentation",
    "Weight": "clarena.toolbox.adapters",
    "added": "clarena.toolbox.adapters",
    "around": "clarena.toolbox.attention",
    "class_order": "clarena.contract.classes",
    "class_sizes": "clarena.contract.classes",
    "continue_run": "clarena.run.continuing",
    "cross_entropy": "clarena.toolbox.categorical",
    "data_root": "clarena.toolbox.downloads",
    "each": "clarena.toolbox.together",
    "evaluate": "clarena.run.evaluation",
    "evaluating": "clarena.toolbox.modules",
    "family_member": "clarena.plugins.registry",
    "fetch": "clarena.toolbox.downloads",
    "file_stamps": "clarena.toolbox.files",
    "fisher_diagonal": "clarena.toolbox.gradients",
    "held_out_rows": "clarena.contract.samples",
    "in_order": "clarena.contract.samples",
    "is_picture": "clarena.toolbox.pictures",
    "load_model": "clarena.run.trained",
    "mapped": "clarena.toolbox.mapped",
    "npz_arrays": "clarena.contract.samples",
    "observed": "clarena.toolbox.adapters",
    "output_norm_sensitivity": "clarena.toolbox.gradients",
    "read_pictures": "clarena.contract.samples",
    "readable_name": "clarena.toolbox.files",
    "require_file": "clarena.toolbox.files",
    "require_memory": "clarena.toolbox.pictures",
    "same_classes": "clarena.contract.benchmark",
    "split_by_class": "clarena.contract.benchmark",
    "split_by_domain": "clarena.contract.benchmark",
    "split_by_groups": "clarena.contract.benchmark",
    "user_path": "clarena.toolbox.downloads",
}

__all__ = [
    "IGNORED",
    "IMAGES",
    "Adapters",
    "AugmentationKind",
    "Backbone",
    "Batch",
    "BatchNorm",
    "Benchmark",
    "ClarenaError",
    "ClarenaWarning",
    "ClassOrder",
    "ClassSizes",
    "Context",
    "Data",
    "DataError",
    "DivergedError",
    "Experience",
    "Freezable",
    "Frozen",
    "GradientStrategy",
    "Head",
    "Lora",
    "Metric",
    "Model",
    "Pictures",
    "PluginError",
    "Predictions",
    "Protocol",
    "Record",
    "ReplayBuffer",
    "Results",
    "RowForm",
    "Samples",
    "Scenario",
    "Scope",
    "Scoring",
    "SeenData",
    "Split",
    "Store",
    "StoreError",
    "Strategy",
    "Stream",
    "Target",
    "Tokens",
    "Track",
    "TrainedModel",
    "Updater",
    "UsageError",
    "Weight",
    "added",
    "around",
    "as_given",
    "class_order",
    "class_sizes",
    "continue_run",
    "cross_entropy",
    "data_root",
    "each",
    "evaluate",
    "evaluating",
    "family_member",
    "fetch",
    "file_stamps",
    "fisher_diagonal",
    "held_out_rows",
    "hookimpl",
    "in_order",
    "is_picture",
    "load_model",
    "mapped",
    "npz_arrays",
    "observed",
    "output_norm_sensitivity",
    "read_pictures",
    "readable_name",
    "require_file",
    "require_memory",
    "same_classes",
    "split_by_class",
    "split_by_domain",
    "split_by_groups",
    "unknown_name",
    "user_path",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'clarena' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
