"""L2P: learning to prompt.

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022, section 4. The backbone is pre-trained and stays
as it is. There is a pool of M prompts P_i, each of L_p tokens, and each has a key k_i. The query q(x) of an input is
its feature by the backbone alone. With the cosine distance γ, the N prompts whose keys are nearest to it are chosen
and put before the tokens x_e of the input,

    K_x = argmin_{{s_i} ⊆ [1, M]} Σ_i γ(q(x), k_{s_i}),    x_p = [P_{s_1}; …; P_{s_N}; x_e],

and the head g is given the mean over what the N·L_p prompts have become. Prompts P, keys K and head φ are trained by

    min_{P, K, φ}  L(g_φ(f_avg(x_p)), y) + λ Σ_{k ∈ K_x} γ(q(x), k).

It is made for backbones that bring pre-trained weights. On a random one the frozen features say little, whatever
prompts stand before them.

Differences from the paper:
1. M, N, L_p and λ are the paper's for CIFAR-100; its code has since then used others (4 of 10 prompts of 10 tokens, λ
   = 1). The optimiser, its rate and the passes are the protocol's; the paper has Adam at 0.03 × batch / 256, constant,
   for five epochs. Each experience begins with a fresh optimiser, whatever the protocol says of its state.
2. In the class scenario L runs over the classes of the experience alone, as in its code, whatever the protocol's
   loss_over says: so the outputs of earlier classes get no gradient. In the others it runs over the outputs in play.
3. Each input has its own prompts, in training and when it is asked. In the code all inputs of a batch have those that
   most of them choose, so that an answer depends on what it is asked beside.
4. The distance is 1 − cosine. A key is moved by the second term alone, and only where it is chosen; the term is a mean
   over the batch. The optional penalty on prompts that are chosen often is left out.
5. The backbone is in evaluation mode throughout, so it sees plain images, also where the protocol augments.
6. As in its code, no position is added to a prompt, and prompts and keys are drawn evenly from 0 to 0.01.
7. The head grows with the classes, and its new outputs begin as layers do, where those of the code begin at 0. There
   are as many prompts as there are, however long the stream is.
8. Where a backbone has no class token, q(x) is the feature that it has (the mean over a text's tokens). Those in which
   no token sees a later one are refused: prompts before a text would know nothing of it.
9. With chosen = 0 the head is given q(x) itself: a linear classifier on frozen features.
"""

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, Batch, Context, Experience, Head, Model, Strategy, UsageError


class L2P(Strategy):
    """Learning to prompt: a frozen backbone is given, before the tokens of an input, the prompts nearest to it."""

    name = "l2p"
    reference = "Wang et al. 2022, Learning to Prompt for Continual Learning. arXiv:2112.08654"
    family = "prompts"
    needs = frozenset({"tokens", "boundaries", "float32"})
    tuning = {"pull": "0.01..1:log"}
    carries = "the frozen backbone, the prompts, their keys and the head"

    model: "Prompted"

    def __init__(
        self,
        *,
        pool: Annotated[int, Field(ge=0, description="M, how many prompts there are.")] = 10,
        chosen: Annotated[
            int, Field(ge=0, description="N, how many of them an input is given; 0 leaves a classifier of features.")
        ] = 5,
        length: Annotated[int, Field(ge=1, description="L_p, the tokens of a prompt.")] = 5,
        pull: Annotated[
            float, Field(ge=0, description="λ, the weight of the distance between a query and the keys chosen for it.")
        ] = 0.5,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.chosen = chosen
        self.length = length
        self.pull = pull

    def setup(self, context: Context) -> None:
        """Build the frozen backbone, the pool and the head."""
        if self.chosen > self.pool:
            raise UsageError(f"l2p.chosen = {self.chosen} is more than there are prompts: l2p.pool = {self.pool}.")
        self.context = context
        backbone = context.backbone()
        if self.chosen and backbone.causal:
            raise UsageError(
                f"In {backbone.name} no token sees those after it, so prompts before a text would know nothing of it. "
                "Choose an encoder, such as vit-tiny or text-transformer, and a target that asks once for each input."
            )
        self.model = Prompted(backbone, self.pool, self.chosen, self.length)
        context.grow(self.model)
        with context.seeds.scope("init"):
            self.model.draw()

    def learn(self, experience: Experience) -> None:
        """Train prompts, keys and head on the outputs of this experience."""
        self.context.grow(self.model)
        updater = self.context.updater(p for p in self.model.parameters() if p.requires_grad)
        mask = self.context.own_outputs(experience)
        self.train()

        def loss(part: Batch) -> Tensor:
            scores, distance = self.model.answer(part.x)
            asked = self.context.target.loss(scores, part.y, part.mask if mask is None else mask)
            return asked + self.pull * distance

        for batch in experience.batches():
            experience.meter.observe(updater.descend(batch, loss))
        self.zero_grad()


class Prompted(Model):
    """A frozen backbone, a pool of prompts with their keys, and a head on what the prompts become."""

    def __init__(self, backbone: Backbone, pool: int, chosen: int, length: int) -> None:
        width = backbone.token_width or 0
        super().__init__(backbone, Head(width if chosen else backbone.features, backbone.start))
        self.backbone.requires_grad_(False)
        self.chosen = chosen
        self.prompts = nn.Parameter(torch.empty(pool, length, width))
        self.keys = nn.Parameter(torch.empty(pool, backbone.features))
        self.train()

    def draw(self) -> None:
        """Give prompts and keys their first values."""
        for parameter in (self.prompts, self.keys):
            nn.init.uniform_(parameter, 0, 0.01)

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach the frozen backbone."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *input_shape]."""
        return self.answer(x)[0]

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [batch, outputs], and Σ γ(q, k) over the keys chosen for an input, its mean over the batch."""
        with torch.no_grad():
            tokens = self.backbone.embed(x)
            query = self.backbone.encode(tokens)  # [batch, features]
        if not self.chosen:
            return self.head(query), query.new_zeros(())
        near, which = self.nearness(query).topk(self.chosen, dim=1)  # [batch, chosen]
        prompts = self.prompts[which].flatten(1, 2)  # [batch, chosen · length, width]
        outputs = self.backbone.outputs(tokens.after(prompts))
        return self.head(outputs[:, : prompts.shape[1]].mean(1)), (1 - near).sum(1).mean()

    def nearness(self, query: Tensor) -> Tensor:
        """The cosine of each query [batch, features] with each key: [batch, pool]."""
        return F.normalize(query, dim=1) @ F.normalize(self.keys, dim=1).T
