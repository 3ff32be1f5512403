"""RanPAC: ridge regression on random projections of frozen features.

McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023, section 4.
Features f of a pre-trained backbone are projected once and for all by W [L, M], drawn from N(0, 1), and h = φ(fᵀW), φ
a ReLU. With the Gram matrix and the class prototypes of all samples so far,

    G = Σ_n h_n ⊗ h_n,    C = Σ_n h_n ⊗ y_n,

the score of class y is s_y = φ(f_testᵀ W) (G + λI)⁻¹ c_y. λ is one of 17 powers of ten, 10⁻⁸ to 10⁸: fitted on four
fifths of the samples of an experience, it has the least squared error on the fifth held out, and is chosen anew each
time (appendix F.5). Before all this, on the first experience alone, a few weights added to the backbone may be trained
with a head that is thrown away (phase 1: `adaptation`).

Differences from the paper:

1. M is 2,000 where the paper has 10,000: G is M² numbers of float64, 32 MB and not 800. `projection = 0` leaves it out.
   W is drawn by a generator of its own. Sums are in float64; those of the published code are in float32.
2. Features have length 1 before they are projected, unless `normalised` says otherwise, so that one λ means the same
   on every backbone.
3. A λ that leaves G + λI without a Cholesky factor in float64 is no candidate, and after the choice the next larger one
   that has a factor is taken. As in the published code, the error is over all of a sample's outputs; those of classes
   that the experience has not are 0 in target and answer. The choice, and so the answers, hang on which fifth a
   generator of its own draws; with a `strength` in numbers all is the same in any order.
4. An experience of a single sample has no fifth to hold out, and leaves λ as it is (1 at first).
5. Phase 1 is trained by the protocol's optimiser, in all passes of the budget but one, which is left for the sums. The
   paper takes SGD with 20 epochs, rate 0.01, a cosine schedule, on augmented images. The backbone stays in evaluation
   mode, and sees plain images. There are AdaptFormer's adapters, such that stand after the blocks, and LoRA on queries
   and values; not the paper's scaling of features (SSF) and prompts (VPT).
6. A class that has no sample yet is never chosen.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clarena import Adapters, Backbone, Batch, Context, Experience, Lora, UsageError
from clarena_native.strategies.closed_form.adapted import AdaptedModel, Cosine
from clarena_native.strategies.closed_form.features import ClosedForm, Sums
from clarena_native.strategies.closed_form.ridge import Regression, gaussian, solved

EXPONENTS = range(-8, 9)


class RanPAC(ClosedForm):
    """Ridge regression on random projections of frozen features, its strength by held-out samples."""

    name = "ranpac"
    reference = "McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models. arXiv:2307.02251"
    carries = "the frozen backbone, what was added to it, the projection and the sums"

    model: AdaptedModel

    def __init__(
        self,
        *,
        projection: Annotated[int, Field(ge=0, description="M, how many random features; 0: φ itself.")] = 2000,
        strength: Annotated[
            Annotated[float, Field(gt=0)] | Literal["held_out"],
            Field(description="λ: a number, or held_out for the paper's rule."),
        ] = "held_out",
        normalised: Annotated[bool, Field(description="Whether features have length 1 before all else.")] = True,
        adaptation: Annotated[
            Literal["none", "adapter", "adapter_after", "lora"],
            Field(description="What is trained on the first experience: adapters beside the blocks, after them, LoRA."),
        ] = "none",
        bottleneck: Annotated[int, Field(ge=1, description="The size of adapters, or the rank of LoRA.")] = 64,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.strength = strength
        self.normalised = normalised
        self.adaptation = adaptation
        self.bottleneck = bottleneck

    def setup(self, context: Context) -> None:
        """Build the frozen backbone, with what is added to it, and empty sums."""
        if self.adaptation != "none" and context.protocol.epochs < 2:
            raise UsageError(
                "ranpac trains adapters in all passes but the last, in which it adds up features, and this track has a "
                "single pass. Choose ranpac.adaptation=none, or open another track: --set protocol.epochs=2."
            )
        super().setup(context)
        backbone = self.model.backbone
        with context.seeds.scope("init"):
            added = self._added(backbone)
        self.model = AdaptedModel(backbone, self.model.head, added).to(context.device)

    def _added(self, backbone: Backbone) -> Adapters | Lora | None:
        match self.adaptation:
            case "lora":
                return backbone.adapt("lora", rank=self.bottleneck)
            case "adapter":
                return backbone.adapt("adapter", bottleneck=self.bottleneck, scale=0.1, place="beside")
            case "adapter_after":
                return backbone.adapt("adapter", bottleneck=self.bottleneck, scale=0.1)
            case _:
                return None

    def head(self, features: int) -> Sums:
        w = gaussian(features, self.projection, self.context.generator("projection"))
        if self.strength == "held_out":
            return Chosen(features, w, self.normalised)
        return Regression(features, w, self.normalised, self.strength)

    def learn(self, experience: Experience) -> None:
        """On the first experience, adapt; then add up, some samples being held out where λ is to be chosen."""
        self.context.grow(self.model)
        if self.model.added is not None and experience.position == 0:
            self._adapt(experience)
        if self.strength == "held_out" and len(experience) > 1:
            self._add_and_choose(experience)
        else:
            super().learn(experience)

    def _adapt(self, experience: Experience) -> None:
        """Train what is added to the backbone, with a cosine head that is dropped."""
        assert self.model.added is not None
        passes = experience.passes_left - 1
        classes = torch.tensor(sorted(experience.classes), device=self.context.device)
        with self.context.seeds.scope("init"):
            head = Cosine(self.model.backbone.features, len(classes)).to(self.context.device)
        updater = self.context.updater([*self.model.added.parameters(), *head.parameters()], passes=passes)

        def loss(part: Batch) -> Tensor:
            return F.cross_entropy(head(self.model.features(part.x)), torch.searchsorted(classes, part.y))

        for batch in experience.batches(passes):
            experience.meter.observe(updater.descend(batch, loss))
        self.zero_grad()
        self.model.added.requires_grad_(False)

    @torch.no_grad()
    def _add_and_choose(self, experience: Experience) -> None:
        """Take in an experience, and choose λ by it."""
        head, device = self.model.head, self.context.device
        assert isinstance(head, Chosen)
        order = torch.randperm(len(experience), generator=self.context.generator("held out"))
        away = torch.ones(len(experience), dtype=torch.bool)
        away[order[: int(0.8 * len(experience))]] = False
        away = away.to(device)
        classes = torch.tensor(sorted(experience.classes), device=device)
        fit = Regression(head.features, head.projection.new_empty(head.features, 0), False, 1.0).to(device)
        fit.grow(len(classes))
        held: list[tuple[Tensor, Tensor]] = []
        kept: list[Tensor] = []
        for features, y, index in self.blocks(experience):
            h, y, out = head.expand(features), torch.searchsorted(classes, y), away[index]
            kept = [h[~out]] if not held else []  # all that is fitted on, where that is one block
            fit.take(h[~out], y[~out])
            held.append((h[out], y[out]))
        rows, targets = (torch.cat(column) for column in zip(*held, strict=True))
        head.exponent = least_error(fit, rows, targets, kept[0] if kept else None)
        fit.take(rows, targets)
        head.gram = head.gram + fit.gram
        head.sums = head.sums.index_add(0, classes, fit.sums)
        head.counts = head.counts.index_add(0, classes, fit.counts)
        _ = head.solution


class Chosen(Regression):
    """Least squares whose λ is 10 to the power of `exponent`, chosen by held-out samples."""

    exponent: Tensor

    def __init__(self, features: int, projection: Tensor, normalised: bool) -> None:
        super().__init__(features, projection, normalised, 1.0)
        self.register_buffer("exponent", torch.zeros((), dtype=torch.int64))

    def solve(self) -> Tensor:
        for exponent in range(int(self.exponent), EXPONENTS.stop):
            if (weights := solved(self.gram, self.sums, 10.0**exponent)) is not None:
                return weights
        raise UsageError("Even λ = 10⁸ is lost beside the sums over these features. Set ranpac.normalised=true.")


def least_error(fit: Regression, rows: Tensor, y: Tensor, fitted: Tensor | None) -> Tensor:
    """The exponent of the λ by which `fit` has the least squared error on held-out rows [n, width].

    Args:
        fit: sums over the samples that are fitted on.
        rows, y: those that are held out.
        fitted: the rows that are fitted on, where they are at hand. If they are few, all is done within the space that
            they span, in which the solution lies: for M = 2,000 and 100 samples some thousand times as fast.
    """
    gram, sums = fit.gram, fit.sums
    if fitted is not None and len(fitted) < len(gram):
        basis = torch.linalg.qr(fitted.T).Q  # [width, fitted]
        fitted, sums, rows = fitted @ basis, sums @ basis, rows @ basis
        gram = fitted.T @ fitted
    targets = F.one_hot(y, len(sums)).double()
    errors = []
    for exponent in EXPONENTS:
        weights = solved(gram, sums, 10.0**exponent)
        errors.append(torch.inf if weights is None else float((targets - rows @ weights).square().sum()))
    return torch.tensor(EXPONENTS[errors.index(min(errors))], device=rows.device)
