"""Expand: a new backbone for every experience, beside the older ones, which are frozen (DER, *expandable*).

Yan, Xie & He, "DER: Dynamically Expandable Representation for Class Incremental Learning", CVPR 2021. (The name is not
`der`, which is dark experience replay.) At step t the features of all backbones are joined,

    Φ_t(x) = [Φ_{t−1}(x), F_t(x)],    p(y|x) = softmax(H_t(Φ_t(x))),

of which Φ_{t−1} is frozen, F_t is new, and H_t keeps the weights of H_{t−1}. Stage 1, representation learning (section
3.2), trains F_t and H_t on the new data and the exemplars, D_t ∪ M_t, by

    L = L_{H_t} + λ_a L_{H_t^a},

both cross-entropies; the auxiliary classifier H_t^a sees F_t alone and tells |Y_t| + 1 classes apart: each new one, and
all old ones as one. Stage 2, classifier learning (section 3.4), trains H_t alone on a subset of D_t ∪ M_t that is
balanced over classes, by the cross-entropy of softmax(H_t(Φ_t(x)) / δ).

Differences from the paper:
1. There are no masks of channels, no sparsity loss and no pruning (section 3.3): the paper's DER *w/o P*.
2. The budget is the protocol's: from the second experience on stage 2 takes `balanced` passes of it, and leaves at
   least one. In each, every exemplar is trained on once; samples of the stream are handed out, and not looked at.
3. The balanced subset is the memory, after the new classes have come into it. Its features are computed once, in
   evaluation mode. There is no stage 2 with fewer exemplars than classes.
4. Stage 2 goes on from the H_t of stage 1. From random weights, as in the paper, few passes do not bring it as far.
5. The memory is `buffer_size` samples in all, the same number for each class, chosen by herding (as in `icarl`, by the
   normalised Φ_t). In every pass of stage 1 each exemplar is trained on once, as in the paper.
6. Weights of new outputs on all features, and of old outputs on new features, are layers of their own, so that no
   parameter ever changes its shape. Only new outputs have a new bias.
7. Each experience begins with a fresh optimiser, whatever the protocol says of its state; stage 2 with another.
8. With augmentation F_t sees a view of an image, and what is frozen sees the image, as everywhere here.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Batch, Context, Experience, Strategy, evaluating
from clarena_native.strategies.architecture.expand_network import WideModel
from clarena_native.strategies.exemplars import Dealer, cut, fields, joined, picked, together
from clarena_native.strategies.replay.icarl import herd


class Expand(Strategy):
    """Expandable representation: every experience adds a backbone beside the older ones, which are frozen."""

    name = "expand"
    scenarios = frozenset({"class", "task"})
    targets = frozenset({"classes"})  # new classes are told apart, old ones are one, and exemplars are balanced
    reference = "Yan et al. 2021, DER: Dynamically Expandable Representation. arXiv:2103.16788"
    family = "architecture"
    needs = frozenset({"own_loop", "float32"})
    carries = "a backbone for each experience, the head, and the exemplars"

    model: WideModel

    def __init__(
        self,
        *,
        auxiliary: Annotated[
            float, Field(ge=0, description="λ_a, the weight of the auxiliary classifier's loss.")
        ] = 1.0,
        balanced: Annotated[
            int, Field(ge=0, description="Passes of stage 2, on exemplars alone; one pass is always left for stage 1.")
        ] = 2,
        temperature: Annotated[float, Field(gt=0, description="δ, by which scores are divided in stage 2.")] = 1.0,
        buffer_size: Annotated[
            int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
    ) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.balanced = balanced
        self.temperature = temperature
        self.buffer_size = buffer_size

    def setup(self, context: Context) -> None:
        """Build the first backbone; the others come with their experiences."""
        self.context = context
        self.model = WideModel(context.backbone())
        context.grow(self.model)
        self.buffer = context.replay_buffer(self.buffer_size, "ring")

    def structure(self) -> dict[str, int]:
        """How many backbones there are."""
        return {"backbones": len(self.model.backbone.branches)}

    def build(self, structure: dict[str, int]) -> None:
        """Have as many backbones."""
        while len(self.model.backbone.branches) < structure["backbones"]:
            self.model.backbone.add(self.context.backbone())

    def learn(self, experience: Experience) -> None:
        """Grow, then both stages."""
        grows = experience.position > 0
        if grows:
            self.model.backbone.add(self.context.backbone())
            with self.context.seeds.scope("init"):
                self.model.head.widen()
        self.context.grow(self.model)
        enough = self.buffer.capacity >= len(self.context.space.seen)
        balanced = min(self.balanced, experience.passes_left - 1) if grows and enough else 0
        self._learn_representation(experience, experience.passes_left - balanced)
        self._remember(experience)
        if balanced:
            self._learn_classifier(experience, balanced)

    def _learn_representation(self, experience: Experience, passes: int) -> None:
        old = set().union(*self.context.space.tasks[:-1])
        classes = auxiliary_classes(sorted(set(experience.classes) - old), self.context.space.width)
        classes, outputs = classes.to(self.context.device), int(classes.max()) + 1
        with self.context.seeds.scope("init"):
            auxiliary = nn.Linear(self.model.head.features, outputs).to(self.context.device)
        helped = bool(self.auxiliary and old and outputs > 1)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        updater = self.context.updater([*trained, *auxiliary.parameters()] if helped else trained, passes=passes)
        stored, dealer = self.buffer.everything(as_rows=True), Dealer(len(self.buffer), experience, self.context)
        self.train()

        def loss(part: Batch) -> Tensor:
            part = self._replay(part, stored, dealer)
            experience.meter.replayed += len(part) - part.fresh
            features = self.model.backbone(part.x)
            loss = self.context.target.loss(self.model.head(features), part.y, part.mask)
            if helped:
                newest = features[:, -auxiliary.in_features :]
                loss = loss + self.auxiliary * F.cross_entropy(auxiliary(newest), classes[part.y])
            return loss

        for batch in experience.batches(passes):
            experience.meter.observe(updater.descend(batch, loss))
        self.zero_grad()

    def _replay(self, batch: Batch, stored: dict[str, Tensor], dealer: Dealer) -> Batch:
        rows = dealer.next()
        if not len(rows):
            return batch
        return joined(batch, picked(stored, rows), self.context)

    @torch.no_grad()
    def _remember(self, experience: Experience) -> None:
        """Offer the samples of each class to the buffer, the best of herding last: a ring keeps the latest."""
        if not self.buffer.capacity:
            return
        scanned = [(fields(batch), F.normalize(self._features(batch.x), dim=1)) for batch in experience.scan()]
        everything, features = together([kept for kept, _ in scanned]), torch.cat([phi for _, phi in scanned])
        ranked = []
        for label in experience.classes:
            mine = (everything["y"] == label).nonzero().flatten()
            ranked.append(mine[herd(features[mine], self.buffer.capacity)].flip(0))
        chosen = torch.cat(ranked)
        self.buffer.add(self.context.generator("buffer"), **picked(everything, chosen))

    def _learn_classifier(self, experience: Experience, passes: int) -> None:
        stored, dealer = self.buffer.everything(), Dealer(len(self.buffer), experience, self.context)
        features, head = self._features(stored["x"]), self.model.head
        updater = self.context.updater(head.parameters(), passes=passes)

        def loss(part: Batch) -> Tensor:
            return self.context.target.loss(head(part.x) / self.temperature, part.y, part.mask)

        for batch in experience.batches(passes):
            parts = min(self.context.protocol.accumulation, len(batch))
            rows = torch.cat([dealer.next() for _ in range(parts)])
            if not len(rows):
                continue
            task = stored["task"][rows] if "task" in stored else None
            exemplars = Batch(
                features[rows], stored["y"][rows], task, rows, self.context.space.exemplar_mask(task), fresh=0
            )
            experience.meter.observe(updater.descend(exemplars, loss))
            experience.meter.replayed += len(rows)
        self.zero_grad()

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        """Φ_t [batch, features], in evaluation mode."""
        with evaluating(self.model):
            return torch.cat([self.model.backbone(part) for part in cut(x, self.context.protocol.eval_batch_size)])


def auxiliary_classes(new: list[int], outputs: int) -> Tensor:
    """Which class of the auxiliary classifier a label is [outputs]: 1, 2, … for the new ones, and 0 for all others."""
    classes = torch.zeros(outputs, dtype=torch.long)
    classes[new] = torch.arange(1, len(new) + 1)
    return classes
