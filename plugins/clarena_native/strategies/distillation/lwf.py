"""LwF: learning without forgetting.

Li & Hoiem, "Learning without Forgetting", ECCV 2016 / TPAMI 2017, section 3. On a new experience, first the outputs
Y_o of the old heads on its inputs are recorded; then only the new head is trained (warm-up); then everything, on

    λ_o L_old(Y_o, Ŷ_o) + L_new(Y_n, Ŷ_n),    L_old = − Σᵢ y'_o(i) log ŷ'_o(i),    y'(i) = y(i)^{1/T} / Σⱼ y(j)^{1/T},

where y' is the softmax of the scores divided by T. There is one L_old per old head.

Differences from the paper:
1. The task scenario has one L_old for each old task. The other two have one head: in the class scenario the term is
   over all outputs of earlier experiences together, in the domain scenario over all outputs.
2. Warm-up spends passes of the protocol's budget, and leaves at least one pass for everything. It is skipped where
   the new outputs are not a block of their own: with heads that are full from the start.
3. The paper trains to convergence; here the budget is the protocol's. Weight decay is the protocol's too.
4. The targets are recorded in evaluation mode.
5. L_old is the divergence of the target, so that whatever is asked is distilled: of classes, the above. Where every
   token of a sequence has a label, each is a sample: L_old is its mean over the tokens that count. (How many there are
   is for the host to know before it can go on: such steps wait for the device.)
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Experience, Frozen, GradientStrategy, evaluating


class LwF(GradientStrategy):
    """Learning without forgetting: the old outputs on new inputs are kept, by distillation."""

    name = "lwf"
    reference = "Li & Hoiem 2017, Learning without Forgetting. arXiv:1606.09282"
    family = "distillation"
    off = {"strength": 0.0, "warmup": 0}

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="λ_o, the weight of the distillation.")] = 1.0,
        temperature: Annotated[float, Field(gt=0, description="T, which softens the recorded outputs.")] = 2.0,
        warmup: Annotated[
            int, Field(ge=0, description="Passes in which only the new outputs are trained; one pass is always left.")
        ] = 1,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.temperature = temperature
        self.warmup = warmup

    def before_experience(self, experience: Experience) -> None:
        self.groups = self._old_outputs(experience)
        if experience.position == 0:
            return
        with torch.no_grad(), evaluating(self.model):
            scores = [self.model(batch.x) for batch in experience.scan()]
        self.recorded = torch.cat(scores)  # [samples, …, outputs]; columns of new outputs are never looked at
        self._warm_up(experience)

    def distil(self, batch: Batch) -> Tensor | None:
        if not self.groups or self.strength == 0:
            return None
        assert batch.scores is not None
        fresh = batch.stream()
        scores, old, asked = batch.scores[: batch.fresh], self.recorded[fresh.index], self.context.target
        counted = asked.counted(fresh.y)
        terms = [
            asked.divergence(scores[..., g], old[..., g], counted, temperature=self.temperature) for g in self.groups
        ]
        return self.strength * torch.stack(terms).sum()

    def after_experience(self, experience: Experience) -> None:
        if experience.position > 0:
            del self.recorded
        del self.groups

    def _old_outputs(self, experience: Experience) -> list[Tensor]:
        """The old heads, each as the columns of its outputs."""
        space = self.context.space
        if experience.position == 0:
            return []
        if space.scenario == "domain":
            columns = [set(range(space.width))]
        elif space.scenario == "task":
            columns = [set(task) for task in space.tasks[:-1]]
        else:
            columns = [space.seen - space.current]
        return [torch.tensor(sorted(group), device=self.context.device) for group in columns if group]

    def _warm_up(self, experience: Experience) -> None:
        """Train the newest block of the head alone; everything else stays as it is, bit for bit."""
        passes = min(self.warmup, experience.passes_left - 1)
        blocks = self.model.head.blocks
        width = self.model.outputs
        newest = range(width - blocks[-1].out_features, width)  # type: ignore[operator]
        if passes < 1 or len(blocks) < 2 or set(newest) != self.context.space.current:
            return
        features = Frozen(self.model.backbone)

        def loss(part: Batch) -> Tensor:
            with torch.no_grad():
                x = features(part.x)
                old = torch.cat([block(x) for block in blocks[:-1]], dim=-1)
            return self.context.target.loss(torch.cat([old, blocks[-1](x)], dim=-1), part.y, part.mask)

        updater = self.context.updater(blocks[-1].parameters(), passes=passes)
        for batch in experience.batches(passes):
            experience.meter.observe(updater.descend(batch, loss))
