"""What single strategies of Avalanche's need besides `Adapted`."""

from copy import deepcopy
from itertools import chain
from math import ceil
from typing import Any, ClassVar

import torch
from avalanche.benchmarks.utils import concat_datasets
from avalanche.models import NCMClassifier
from avalanche.models.scr_model import SCRModel
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Context, Experience, PluginError, UsageError, evaluating
from clarena_avalanche.adapters import Adapted, holder
from clarena_avalanche.memory import Place
from clarena_avalanche.samples import Samples
from clarena_avalanche.trainer import exemplars_of, labelled


class Refused(Adapted):
    """Cannot run, and says why as soon as it is asked to."""

    def setup(self, context: Context) -> None:
        """Raise `UsageError` with the reason."""
        raise UsageError(f"{self.name} cannot run: {self.method.refuses}. `clarena list` names those that can.")


# ---- EWC ----


class Elastic(Adapted):
    """EWC, whose two modes take different parameters."""

    mode: str
    decay_factor: float | None

    def setup(self, context: Context) -> None:
        super().setup(context)
        if (self.mode == "online") != (self.decay_factor is not None):
            raise UsageError(
                f"{self.name} takes decay_factor with mode=online, and only there; 1 forgets nothing: "
                f"--set {self.name}.mode=online --set {self.name}.decay_factor=1."
            )


# ---- MAS ----


class _NeverZero(nn.CrossEntropyLoss):
    """Cross-entropy and the smallest number there is: the same gradient, and never exactly 0."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target) + torch.finfo(input.dtype).tiny


class Synapses(Adapted):
    """MAS, which takes a loss of 0 for none (avalanche#1676)."""

    def common(self, model: nn.Module) -> dict[str, Any]:
        return super().common(model) | {"criterion": _NeverZero()}


# ---- SI ----


class _CopiedWeights:
    """Keeps copies of weights where the plugin, on a CPU, keeps views of them, which move along with the model."""

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)  # type: ignore[misc]
        _copy(holder(self, "ewc_data").ewc_data[0])

    def _before_training_iteration(self, **kwargs: Any) -> None:
        super()._before_training_iteration(**kwargs)  # type: ignore[misc]
        _copy(holder(self, "syn_data").syn_data["old_theta"])


def _copy(weights: dict[str, Any]) -> None:
    for each in weights.values():
        each.data = each.data.clone()


class PathIntegral(Adapted):
    """SI, which on a CPU would have importances of 0 and a penalty of 0."""

    mixins = (_CopiedWeights,)


# ---- DER ----


class _PresentScores:
    """Where a stored score is NaN, because its output came later, the present one stands in: no distance."""

    def _after_forward(self, **kwargs: Any) -> None:
        super()._after_forward(**kwargs)  # type: ignore[misc]
        if self.replay_loader is not None:  # type: ignore[attr-defined]
            stored = self.batch_logits
            present = self.mb_output[: len(stored)].detach()  # type: ignore[attr-defined]
            self.batch_logits: Tensor = torch.where(stored.isnan(), present, stored)


class DarkReplay(Adapted):
    """DER with heads that grow."""

    mixins = (_PresentScores,)


# ---- MIR ----


class _LastLabels:
    """Keeps the classes of the last batch, which the plugin leaves out of the next experience's replay."""

    def _after_training_exp(self, **kwargs: Any) -> None:
        self.last_labels = self.mb_y.unique()  # type: ignore[attr-defined]
        super()._after_training_exp(**kwargs)  # type: ignore[misc]


class InterferedRetrieval(Adapted):
    """MIR, whose loader is made at the end of an experience for the next one."""

    mixins = (_LastLabels,)

    def recall(self, trainer: Any, place: Place) -> None:
        """Have the plugin make its loader again; only the buffer stays as it is."""
        super().recall(trainer, place)
        if self.granted:
            plugin = holder(trainer, "storage_policy")
            trainer.mbatch = [None, self._memory["last_labels"]]
            plugin.storage_policy.update = lambda *args, **kwargs: None
            plugin.after_training_exp(trainer)
            del plugin.storage_policy.update
            trainer.mbatch = None

    def keep(self, trainer: Any) -> None:
        super().keep(trainer)
        if self.granted:
            self._memory["last_labels"] = trainer.last_labels.clone()


# ---- GEM and A-GEM ----


class SharedMemory(Adapted):
    """Keeps exemplars of each experience, all as many, within the protocol's buffer."""

    def arguments(self, experience: Experience) -> dict[str, Any]:
        """The share of this experience; older ones are cut to it once it is learned."""
        parts = self.context.experiences or experience.position + 1
        self._share = min(self.granted or 0, self.context.buffer_size // parts)
        if self.granted and not self._share:
            raise UsageError(
                f"{self.name} keeps exemplars of every experience, and {self.context.buffer_size} are too few for "
                f"{parts} experiences. Grant more: --set protocol.buffer_size={parts}."
            )
        return super().arguments(experience) | {"patterns_per_exp": self._share}


class _CountedMemory:
    """Meters the exemplars behind the constraints of each step."""

    def _before_training_iteration(self, **kwargs: Any) -> None:
        super()._before_training_iteration(**kwargs)  # type: ignore[misc]
        memory = holder(self, "memory_y").memory_y
        self.source.meter.replayed += sum(map(len, memory.values()))  # type: ignore[attr-defined]


class EpisodicMemory(SharedMemory):
    """GEM."""

    mixins = (_CountedMemory,)

    def keep(self, trainer: Any) -> None:
        if self.granted:
            plugin = holder(trainer, "memory_x")
            for memory in (plugin.memory_x, plugin.memory_y, plugin.memory_tid):
                memory.update({position: samples[: self._share] for position, samples in memory.items()})
        super().keep(trainer)


class AveragedMemory(SharedMemory):
    """A-GEM, whose loader over all memories is made with the last of them."""

    def recall(self, trainer: Any, place: Place) -> None:
        super().recall(trainer, place)
        if self.granted:
            plugin = holder(trainer, "buffers")
            stored, plugin.buffers = plugin.buffers, []
            plugin.patterns_per_experience = max(map(len, stored))  # so that none is drawn from again
            for memory in stored:
                plugin.update_memory(memory)
            plugin.patterns_per_experience = self._share

    def keep(self, trainer: Any) -> None:
        if self.granted:
            plugin = holder(trainer, "buffers")
            plugin.buffers = [memory.subset(range(min(len(memory), self._share))) for memory in plugin.buffers]
        super().keep(trainer)


# ---- GDumb ----


class FirstWeights(Adapted):
    """GDumb, whose first weights must grow with the model."""

    def recall(self, trainer: Any, place: Place) -> None:
        super().recall(trainer, place)
        self.context.grow(holder(trainer, "init_model").init_model.net)


# ---- CWR* ----


class CopiedWeights(Adapted):
    """CWR*, which needs all outputs in one linear layer."""

    def learn(self, experience: Experience) -> None:
        """Join the blocks of the head first."""
        self.context.grow(self.model)
        blocks: Any = self.model.head.blocks
        if len(blocks) > 1:
            joined = nn.utils.skip_init(nn.Linear, self.model.head.features, self.model.outputs)
            with torch.no_grad():
                joined.weight.copy_(torch.cat([block.weight for block in blocks]))
                joined.bias.copy_(torch.cat([block.bias for block in blocks]))
            self.model.head.blocks = nn.ModuleList([joined.to(self.context.device)])
        super().learn(experience)


# ---- La-MAML ----


class LookAhead(Adapted):
    """La-MAML, which initialises the model again whenever its object is made."""

    n_inner_updates: int

    def setup(self, context: Context) -> None:
        super().setup(context)
        size, parts = context.protocol.batch_size, self.n_inner_updates
        if (parts - 1) * ceil(size / parts) >= size:
            raise UsageError(
                f"{self.name} cannot share out a batch of {size} into {parts} parts: Avalanche leaves the last empty. "
                f"Set {self.name}.n_inner_updates to a divisor of {size}."
            )

    def trainer(self, experience: Experience) -> Any:
        learned = deepcopy(self.model.state_dict())
        trainer = super().trainer(experience)
        if self._memory:
            self.model.load_state_dict(learned)
        return trainer


# ---- The nearest mean of exemplars ----


class NearestMean(Adapted):
    """Classifies by the nearest mean of exemplars, in normalised features; before there are any, by the head.

    Attributes:
        means: [classes, features], after the first experience.
    """

    means: Tensor | None

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.register_buffer("means", None)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Negative distances [batch, outputs]; an output without a mean has one of 0, as in Avalanche."""
        if self.means is None:
            return super().predict(x, task)
        with torch.no_grad(), evaluating(self):
            features = F.normalize(self.model.backbone(x))
        missing = max(0, self.context.space.width - len(self.means))
        return -torch.cdist(features, F.pad(self.means, (0, 0, 0, missing)))

    def keep(self, trainer: Any) -> None:
        super().keep(trainer)
        self.means = trainer.model.eval_classifier.class_means.to(self.context.device)

    def now_training(self, model: nn.Module) -> None:
        """Backbone and head are the host's own."""


class _FreshTeacher:
    """Has the teacher copied anew: Avalanche's would refuse means of more classes than it has seen."""

    def _after_training_exp(self, **kwargs: Any) -> None:
        self._criterion.old_model = None  # type: ignore[attr-defined]
        super()._after_training_exp(**kwargs)  # type: ignore[misc]


class _PooledExemplars:
    """Joins the exemplars to the data where they lie, to be read a batch at a time; the plugin has them on the CPU."""

    def _after_train_dataset_adaptation(self, **kwargs: Any) -> None:
        super()._after_train_dataset_adaptation(**kwargs)  # type: ignore[misc]
        whole = self.whole  # type: ignore[attr-defined]
        if self.adapted_dataset is not whole:
            plugin, pool = holder(self, "x_memory"), exemplars_of(self.source)  # type: ignore[attr-defined]
            labels = list(chain.from_iterable(plugin.y_memory))
            exemplars = labelled(Samples(pool, labels, pool.add(torch.cat(plugin.x_memory))), [0] * len(labels))
            self.adapted_dataset: Any = concat_datasets((whole, exemplars))


class ICaRLAdapter(NearestMean):
    """iCaRL, which takes backbone and head apart and has a loss of its own."""

    mixins = (_FreshTeacher, _PooledExemplars)

    def arguments(self, experience: Experience) -> dict[str, Any]:
        """As many exemplars as make equal shares: Avalanche rounds shares up."""
        classes, granted = len(self.context.space.seen), self.granted or 0
        if granted < classes:
            raise UsageError(f"{self.name} needs an exemplar of each of {classes} classes; {granted} are granted.")
        return super().arguments(experience) | {"memory_size": granted // classes * classes}

    def common(self, model: nn.Module) -> dict[str, Any]:
        common = super().common(model)
        del common["model"], common["criterion"]
        return common | {"feature_extractor": self.model.backbone, "classifier": self.model.head}

    def keep(self, trainer: Any) -> None:
        trainer._criterion.old_model.eval_classifier = NCMClassifier()  # a teacher's means are never asked for
        super().keep(trainer)


class ContrastiveReplay(NearestMean):
    """SCR, whose loss is taken of a projection of the features."""

    outputs: ClassVar[int] = 128

    def setup(self, context: Context) -> None:
        super().setup(context)
        features = self.model.backbone.features
        with context.seeds.scope("init"):
            projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, self.outputs))
        self.projection = projection.to(context.device)

    def wrapped(self, experience: Experience) -> nn.Module:
        return SCRModel(self.model.backbone, self.projection)  # type: ignore[no-any-return]

    def common(self, model: nn.Module) -> dict[str, Any]:
        common = super().common(model)
        del common["criterion"]
        return common

    def recall(self, trainer: Any, place: Place) -> None:
        super().recall(trainer, place)
        if self.means is None:
            raise PluginError("it has exemplars, but no means of them.")
        means = dict(enumerate(self.means.cpu()))
        trainer.model.eval_classifier.replace_class_means_dict(means)
