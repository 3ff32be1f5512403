"""What low-rank adaptations share: a backbone that stays as it is, low-rank terms of its weights, and a head.

The term of a weight W [out, in] is s Σ_j B_j A_j over branches j, A_j [rank, in], B_j [out, rank]. A new B is 0, so a
new branch changes no output; A is drawn as a linear layer's weights are. Of the backbone nothing is trained, its
dropout is off, and BatchNorm's statistics stand still. It does see the views of an augmentation: its features learn.
"""

from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from clarena import Batch, Context, Experience, GradientStrategy, Lora

Role = Literal["query", "key", "value", "output", "other", "all"]
Rank = Annotated[int, Field(ge=0, description="r, of each branch's term; 0 leaves a head on the frozen backbone.")]
Scale = Annotated[float, Field(gt=0, description="s, by which the terms are multiplied; α/r in the paper of LoRA.")]
On = Annotated[
    tuple[Role, ...],
    Field(min_length=1, description="Which weights have a term, by what they make in attention; other ones, or all."),
]


class LowRank(GradientStrategy):
    """Trains the newest branch and the head; a subclass says when there is a new one, and what the loss has besides."""

    family = "adapters"
    needs = frozenset({"adapters"})
    carries = "the frozen backbone, the low-rank terms and the head"

    rank: int
    on: tuple[str, ...]
    scale: float = 1.0

    def setup(self, context: Context) -> None:
        """Build the model, freeze its backbone, and add the first branch."""
        super().setup(context)
        backbone = self.model.backbone.requires_grad_(False)
        with context.seeds.scope("init"):
            lora = backbone.adapt("lora", rank=self.rank, on=self.on, scale=self.scale)
            self.model.adapter = self.adapter(lora)
        self.train()

    def adapter(self, lora: Lora) -> nn.Module:
        """What acts on the backbone: the terms as they are, or a module that holds them as `lora`."""
        return lora

    @property
    def lora(self) -> Lora:
        """The low-rank terms, which are the model's."""
        adapter = self.model.adapter
        return adapter if isinstance(adapter, Lora) else adapter.lora

    def grow(self) -> None:
        """Freeze the branches there are, and add one."""
        with self.context.seeds.scope("init"):
            self.model.adapter.grow()

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach what is in the backbone; the backbone itself augments in it, if it learns."""
        super().train(mode)
        if hasattr(self, "model"):
            self.model.backbone.eval()
            self.model.backbone.training = mode and self.rank > 0
        return self


class Incremental(LowRank):
    """Each experience has a branch of its own; the older ones stay in the sum, frozen (IncLoRA)."""

    needs = frozenset({"adapters", "boundaries"})

    def before_experience(self, experience: Experience) -> None:
        if experience.position:
            self.grow()


class OwnOutputs(Incremental):
    """In the class scenario an experience's loss is over its own outputs, whatever the protocol's loss_over says.

    And in any, blocks of the head that have none of its outputs are frozen: no decay moves them.
    """

    def before_experience(self, experience: Experience) -> None:
        super().before_experience(experience)
        first = 0
        for block in self.model.head.blocks:
            outputs = range(first, first + len(block.weight))  # type: ignore[arg-type]
            block.requires_grad_(any(output in outputs for output in experience.classes))
            first = outputs.stop
        self._mask = self.context.own_outputs(experience)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.scores is not None
        return self.context.target.loss(batch.scores, batch.y, batch.mask if self._mask is None else self._mask)
