"""iCaRL: incremental classifier and representation learning.

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017. With φ the L2-normalised
features, K exemplars in all, and μ_y the normalised mean of the features of class y's exemplars:

    predict   y* = argmin_y ‖φ(x) − μ_y‖                                                  (equation 2, algorithm 1)
    learn     D = new data ∪ exemplars; q = σ(g(x)) of the network before; binary cross-entropy with
              targets 1[y = yᵢ] for new classes and q for old ones, exemplars included     (algorithm 3)
    select    p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖, each sample once           (algorithm 4)
    reduce    keep the first m = ⌊K / classes⌋ of each class                               (algorithm 5)

Differences from the paper:
1. Binary cross-entropy is averaged over the samples and the outputs seen so far (the authors' code averages over
   all classes of the benchmark, those unseen with target 0).
2. In every pass each exemplar is trained on once, dealt out over the steps of the stream behind its batches.
3. The budget, the optimiser and the network are the protocol's.
4. With fewer exemplars than classes there is no mean for each of them; then, and while an experience is being
   learned, the head's scores are the prediction (the paper's hybrid 1).
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, Experience, GradientStrategy, UsageError, evaluating
from clarena_native.strategies.exemplars import Dealer


class ICaRL(GradientStrategy):
    """iCaRL: herded exemplars, distillation by sigmoids, and the nearest mean of exemplars as classifier."""

    name = "icarl"
    scenarios = frozenset({"class", "task"})
    targets = frozenset({"classes"})  # herding and means are by class
    reference = "Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning. arXiv:1611.07725"
    family = "replay"
    carries = "the model, the exemplars in their order, and the mean of each class"

    exemplars: Tensor  # rows
    labels: Tensor
    tasks: Tensor
    means: Tensor

    def __init__(
        self,
        *,
        buffer_size: Annotated[
            int | None, Field(ge=0, description="K, exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
        flip: Annotated[
            bool, Field(description="Average each feature with that of the mirrored image, as the authors' code does.")
        ] = False,
    ) -> None:
        super().__init__()
        self.buffer_size = buffer_size
        self.flip = flip

    def setup(self, context: Context) -> None:
        if self.flip and len(context.input_shape) != 3:
            raise UsageError(
                f"icarl.flip mirrors images [channels, height, width], but inputs have shape {context.input_shape}. "
                "Leave it off."
            )
        if isinstance(context.input_shape[0], tuple):
            raise UsageError(
                "icarl keeps exemplars as one tensor, and a sample here is several. Take another strategy."
            )
        super().setup(context)
        self.granted = context.granted_buffer(self.buffer_size)
        empty = torch.zeros(0, dtype=torch.long, device=context.device)
        self.register_buffer("exemplars", torch.zeros(0, device=context.device))
        self.register_buffer("labels", empty)  # in the order of classes, and within a class of herding
        self.register_buffer("tasks", empty.clone())
        self.register_buffer("means", torch.zeros(0, self.model.backbone.features, device=context.device))

    def before_experience(self, experience: Experience) -> None:
        """Record q, the outputs of the network before, for all of D."""
        space = self.context.space
        self.old = torch.tensor(sorted(space.seen - space.current), dtype=torch.long, device=self.context.device)
        self.seen = torch.tensor(sorted(space.seen), device=self.context.device)
        self.means = self.means[:0]  # they are those of the network before
        self.dealer = Dealer(len(self.labels), experience, self.context)
        with torch.no_grad(), evaluating(self.model):
            self.recorded = torch.cat([self.model(batch.x).sigmoid() for batch in experience.scan()])
            parts = self.exemplars.split(self.context.protocol.eval_batch_size) if len(self.labels) else ()
            targets = (self.model(self.context.inputs(part)).sigmoid() for part in parts)
            self.exemplar_targets = torch.cat([self.recorded[:0], *targets])

    def replay(self, batch: Batch) -> Batch:
        self.dealt = self.dealer.next()
        if not len(self.dealt):
            return batch
        task = self.tasks[self.dealt] if batch.task is not None else None
        mask = self.context.space.exemplar_mask(task)
        x = self.context.inputs(self.exemplars[self.dealt])
        return batch.join(x, self.labels[self.dealt], task, mask)

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy: old classes follow q, new ones the label."""
        assert batch.scores is not None
        q = torch.cat([self.recorded[batch.index[: batch.fresh]], self.exemplar_targets[self.dealt]])
        targets = torch.zeros_like(batch.scores).scatter_(1, batch.y[:, None], 1.0)
        targets[:, self.old] = q[:, self.old]
        return F.binary_cross_entropy_with_logits(batch.scores[:, self.seen], targets[:, self.seen])

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        del self.recorded, self.exemplar_targets, self.dealer, self.dealt, self.old, self.seen
        classes = sorted(self.context.space.seen)
        share = (self.granted() if callable(self.granted) else self.granted) // len(classes)
        scanned = [(batch.rows, batch.y, self.features(batch.x)) for batch in experience.scan()]
        rows, y, features = (torch.cat(column) for column in zip(*scanned))
        kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for label in self.labels.unique().tolist():
            mine = (self.labels == label).nonzero().flatten()[:share]
            kept[label] = self.exemplars[mine], self.labels[mine], self.tasks[mine]
        for label in experience.classes:
            mine = (y == label).nonzero().flatten()
            chosen = mine[herd(features[mine], share)]
            kept[label] = rows[chosen], y[chosen], y.new_full((len(chosen),), experience.task or 0)
        parts = [kept[label] for label in classes if label in kept]
        self.exemplars, self.labels, self.tasks = (torch.cat(column) for column in zip(*parts))
        means = [self._mean(label) for label in range(self.model.outputs)] if share > 0 else []
        self.means = torch.stack(means) if means else self.means[:0]

    def _mean(self, label: int) -> Tensor:
        mine = self.context.inputs(self.exemplars[self.labels == label])
        if not len(mine):
            return self.means.new_full(self.means.shape[1:], torch.inf)  # an output not seen yet
        return F.normalize(self.features(mine).mean(dim=0), dim=0)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Normalised features [batch, features], in evaluation mode, averaged with the mirror image's if asked for."""
        with evaluating(self.model):
            phi = F.normalize(self.model.backbone(x), dim=1)
            if self.flip:
                phi = (phi + F.normalize(self.model.backbone(x.flip(-1)), dim=1)) / 2
        return phi

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Minus the distance to each class's mean [batch, outputs]; the head's scores where there are no means."""
        if len(self.means) < self.model.outputs:
            return super().predict(x, task)
        with torch.no_grad(), evaluating(self.model):
            phi = F.normalize(self.model.backbone(x), dim=1)
        return -torch.cdist(phi, self.means, compute_mode="donot_use_mm_for_euclid_dist")


def herd(features: Tensor, count: int) -> Tensor:
    """Algorithm 4: positions [min(count, n)] of the samples whose running mean stays nearest to the mean of all.

    With c = φ − μ, the sample x is sought that makes ‖Σ_{j<k} c_j + c_x‖ least: of its square, what depends on x is
    ‖c_x‖² + 2 ⟨c_x, Σ_{j<k} c_j⟩.

    Args:
        features: φ [n, d], normalised.
        count: how many; an earlier choice never depends on it.
    """
    centred = features - features.mean(dim=0)
    squares, total = centred.square().sum(dim=1), torch.zeros_like(features[0])
    chosen: list[Tensor] = []
    for _ in range(min(count, len(features))):
        best = torch.addmv(squares, centred, total, alpha=2).argmin()
        total = total + centred[best]
        squares[best] = torch.inf  # not again
        chosen.append(best)
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.long, device=features.device)
