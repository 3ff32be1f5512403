"""APER: the pre-trained backbone, beside it the same tuned on the first experience, and the nearest class mean.

Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and Adaptivity are All You
Need", IJCV 2024 (first called ADAM), section 4. On the first experience a copy φ* of the pre-trained φ is tuned; in
every experience, the first included, the prototype of a class is the mean over its samples

    p_k = (1 / n_k) Σ_{y = k} [φ(x); φ*(x)],

and the score is the cosine of [φ(x); φ*(x)] and p_k. From the second experience on nothing is trained: it is `ncm`, on
features of which half have been adapted to the stream.

Differences from the paper:

1. φ* is φ with adapters beside the feed-forward halves of its blocks (Chen et al. 2022; `place` puts them behind the
   blocks), with low-rank terms in its attention (not in the paper), or a copy of which every weight is tuned (`full`).
   The paper also has prompts, and scaling and shifting of features.
2. The classifier by which φ* is tuned is linear, without the cosine of the paper's code, and is dropped with its
   experience. The optimiser, its rate and the passes are the protocol's: the first experience spends all passes, the
   others one. Prototypes of the first come from a look at its samples outside training (`scan`).
3. Features are rounded to multiples of 2⁻²⁰ and added in float64, as in `ncm`, so that from the second experience on
   the order of samples does not matter.
4. Adapters and low-rank terms are tuned with the backbone in evaluation mode: dropout is off, BatchNorm stands still,
   and images are plain also where the protocol augments. With `full` the copy is in training mode.
5. The two halves are normalised together, as printed: the one whose features are larger weighs more.
"""

from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Adapters, Backbone, Context, Experience, Lora
from clarena_native.strategies.adapters.tuning_parts import tune
from clarena_native.strategies.closed_form.features import ClosedForm, FrozenModel, rounded
from clarena_native.strategies.closed_form.ncm import ClassMeans


class APER(ClosedForm):
    """The nearest class mean of pre-trained features beside those that were tuned on the first experience."""

    name = "aper"
    reference = "Zhou et al. 2024, Revisiting Class-Incremental Learning with Pre-Trained Models. arXiv:2303.07338"
    family = "adapters"
    needs = frozenset({"boundaries", "float32", "trained_backbone"})
    tuning = {"scale": "0.01..1:log"}
    carries = "the frozen backbone, what was tuned on the first experience, and the sums"

    def __init__(
        self,
        *,
        tuned: Annotated[
            Literal["adapter", "lora", "full"], Field(description="What is tuned on the first experience.")
        ] = "adapter",
        bottleneck: Annotated[int, Field(ge=1, description="The width of an adapter.")] = 64,
        scale: Annotated[float, Field(gt=0, description="What adapters or low-rank terms add is times this.")] = 0.1,
        place: Annotated[
            Literal["beside", "after"],
            Field(description="Adapters stand beside the feed-forward halves of blocks, or after blocks."),
        ] = "beside",
        rank: Annotated[int, Field(ge=1, description="Of the low-rank terms, which queries and values have.")] = 8,
    ) -> None:
        super().__init__()
        self.tuned = tuned
        self.bottleneck = bottleneck
        self.scale = scale
        self.place = place
        self.rank = rank

    def setup(self, context: Context) -> None:
        """Build what there is of both backbones, and empty sums of the features of both."""
        self.context = context
        backbone = context.backbone()
        with context.seeds.scope("init"):
            twin = Twin(backbone, self._tuned(backbone))
        self.model = FrozenModel(twin, ClassMeans(twin.features)).to(context.device)
        twin.tuned.requires_grad_(True)  # until the first experience is over
        context.grow(self.model)

    def _tuned(self, backbone: Backbone) -> Backbone | Adapters | Lora:
        if self.tuned == "full":
            return deepcopy(backbone)
        if self.tuned == "lora":
            return backbone.adapt("lora", rank=self.rank, scale=self.scale)
        return backbone.adapt("adapter", bottleneck=self.bottleneck, scale=self.scale, place=self.place)

    def learn(self, experience: Experience) -> None:
        """Tune on the first experience, and then look at it; of the others take one pass."""
        if experience.position > 0:
            return super().learn(experience)
        self.context.grow(self.model)
        self._tune(experience)
        head = self.model.head
        assert isinstance(head, ClassMeans)
        with torch.no_grad():
            for batch in experience.scan():
                head.add(rounded(self.model.backbone(batch.x).double()), batch.y)

    def _tune(self, experience: Experience) -> None:
        twin = self.model.backbone
        assert isinstance(twin, Twin)
        twin.tuned.train()
        tune(twin.adapted, twin.given.features, twin.tuned.parameters(), (experience, self.context))
        twin.tuned.requires_grad_(False).eval()


class Twin(Backbone):
    """[φ(x); φ*(x)]: the features of a backbone, and those of the same one tuned."""

    name = "twin"

    def __init__(self, given: Backbone, tuned: Backbone | Adapters | Lora) -> None:
        """`tuned`: a copy of the backbone, or what it has added to it in φ*."""
        super().__init__()
        self.given, self.tuned = given, tuned
        self.features = 2 * given.features

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, 2 · features] of inputs [batch, *input_shape]."""
        return torch.cat([self.given(x), self.adapted(x)], dim=1)

    def adapted(self, x: Tensor) -> Tensor:
        """φ*(x) [batch, features]."""
        if isinstance(self.tuned, Backbone):
            return self.tuned(x)  # type: ignore[no-any-return]
        with self.tuned.on(self.given):
            return self.given(x)  # type: ignore[no-any-return]
