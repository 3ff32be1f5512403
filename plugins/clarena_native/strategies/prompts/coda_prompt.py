"""CODA-Prompt: prefixes that are weighted sums of components, where a query is looked at before it is compared.

Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning", CVPR
2023, section 4. The backbone is pre-trained and stays as it is. For each block that takes a prefix there are components
P_m, each with a key K_m and an attention vector A_m. With the query q(x), an input's feature by the backbone alone,

    α_m = γ(q(x) ⊙ A_m, K_m),    p = Σ_m α_m P_m,

where γ is the cosine; half of p goes before the keys of the block's attention, half before its values. Experience t
brings new components; those of earlier ones are frozen, and stay in the sum. Trained is, with L_ortho(B) = ‖BBᵀ − I‖²,

    min_{P_t, K_t, A_t, φ}  L(f_φ(f_{P, K, A}(x)), y) + λ (L_ortho(P) + L_ortho(K) + L_ortho(A)).

Differences from the paper:
1. What `prefixed` says: a backbone in evaluation mode, prefixes that are not projected, the loss over the classes of
   the experience, the protocol's optimiser anew for each experience.
2. The pool grows by `components` an experience, so that nobody has to know how many experiences will come. The paper
   shares out a pool of M = 100 over T experiences that are known beforehand: for T = 10, ten each as here.
3. L_ortho is the sum of squares as printed, over all components so far, with P_m as one long row, and is summed over
   blocks. (The code takes the mean of squares.)
4. The paper does not say how components begin. By default each row is drawn from a normal distribution in which its
   expected square length is 1. With start = orthogonal they are made orthonormal, and orthogonal to those of all
   earlier experiences, by Gram-Schmidt, as the repository has it since; it then leaves the penalty out
   (orthogonality = 0). There can be no more such rows than a row has numbers; one experience more is refused.
5. Blocks are numbered from 0; a backbone with fewer than five has prefixes in all it has. With components = 0 or
   length = 0 it is a linear classifier on frozen features.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, Batch, Context, Experience, UsageError
from clarena_native.strategies.prompts.prefixed import PrefixedModel, PrefixStrategy, blocks_in, require_one_answer

TINY = 1e-24
"""Below which squares of lengths are not divided by."""


class CodaPrompt(PrefixStrategy):
    """CODA-Prompt: a frozen backbone is given prefixes put together from components, weighted by an input's query."""

    name = "coda-prompt"
    reference = "Smith et al. 2023, CODA-Prompt: COntinual Decomposed Attention-based Prompting. arXiv:2211.13218"
    tuning = {"orthogonality": "0.001..1:log"}
    carries = "the frozen backbone, the components of all experiences with their keys and attention, and the head"

    model: "Composed"

    def __init__(
        self,
        *,
        components: Annotated[
            int, Field(ge=0, description="How many each experience brings; 0 leaves a classifier of features.")
        ] = 10,
        length: Annotated[
            int, Field(ge=0, multiple_of=2, description="L_p, half of it before keys and half before values.")
        ] = 8,
        blocks: Annotated[
            tuple[int, ...] | None, Field(description="Blocks with prefixes, from 0; none: 0 to 4, or all it has.")
        ] = None,
        orthogonality: Annotated[float, Field(ge=0, description="λ, the weight of L_ortho.")] = 0.1,
        start: Annotated[
            Literal["random", "orthogonal"], Field(description="How components begin: drawn, or by Gram-Schmidt.")
        ] = "random",
    ) -> None:
        super().__init__()
        self.components = components
        self.length = length
        self.blocks = blocks
        self.orthogonality = orthogonality
        self.start = start

    def setup(self, context: Context) -> None:
        """Build the frozen backbone and the head; experiences bring components."""
        self.context = context
        backbone = context.backbone()
        require_one_answer(backbone)
        blocks = blocks_in(backbone, self.blocks, range(5), "coda-prompt.blocks")
        self.model = Composed(backbone, blocks, self.components, self.length)
        self._require_room(context.experiences or 1)
        context.grow(self.model)

    def learn(self, experience: Experience) -> None:
        """Train new components and the head."""
        self._require_room(len(self.model.prompts) + 1)
        self.model.add()
        self.model.draw(self.context.generator(), self.start)
        self.model.to(self.context.device)

        def loss(part: Batch, mask: Tensor | None) -> Tensor:
            return self.context.target.loss(self.model(part.x), part.y, mask)

        def penalty() -> Tensor:
            return self.orthogonality * self.model.skewness()

        self.fit(experience, loss, penalty)

    def _require_room(self, experiences: int) -> None:
        rows = experiences * self.components
        sizes = [size for size in self.model.sizes if size]
        if self.start == "orthogonal" and rows > min(sizes):
            raise UsageError(
                f"coda-prompt.start = orthogonal: {experiences} experiences of {self.components} components need "
                f"{rows} rows orthogonal to each other, and there are {min(sizes)} numbers in one. "
                "Lower coda-prompt.components, or set coda-prompt.start=random."
            )


class Composed(PrefixedModel):
    """A frozen backbone, components with keys and attention for each experience, and a head."""

    def __init__(self, backbone: Backbone, blocks: tuple[int, ...], components: int, length: int) -> None:
        super().__init__(backbone)
        self.blocks, self.components, self.length = blocks, components, length
        width = backbone.token_width or 0
        self.sizes = (length * width, backbone.features, backbone.features)
        self.prompts, self.keys, self.attentions = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()

    @property
    def parts(self) -> tuple[nn.ParameterList, nn.ParameterList, nn.ParameterList]:
        """P, K and A: for each experience [blocks, components, numbers in a row]."""
        return self.prompts, self.keys, self.attentions

    def add(self) -> None:
        """Freeze the components there are, and make new ones."""
        for part, size in zip(self.parts, self.sizes):
            part.requires_grad_(False)
            part.append(nn.Parameter(torch.empty(len(self.blocks), self.components, size)))

    @torch.no_grad()
    def draw(self, generator: torch.Generator, start: str) -> None:
        """Give the newest components their first values."""
        for part in self.parts:
            *older, new = part
            new.normal_(std=max(1, new.shape[2]) ** -0.5, generator=generator)
            if start == "orthogonal" and new.numel():
                new.copy_(orthonormal(new, torch.cat([new[:, :0], *(rows.cpu() for rows in older)], dim=1)))

    def structure(self) -> int:
        """How many experiences have brought components."""
        return len(self.prompts)

    def build(self, structure: int) -> None:
        """Have as many components."""
        while len(self.prompts) < structure:
            self.add()

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *input_shape]."""
        tokens, query = self.look(x)
        if not (self.components and self.length and len(self.prompts)):
            return self.head(query)  # type: ignore[no-any-return]
        prompts, keys, attentions = (torch.cat(list(part), dim=1) for part in self.parts)
        prefixes = (weights(query, keys, attentions) @ prompts).unflatten(2, (self.length, -1))  # [blocks, batch, …]
        half = self.length // 2
        pairs = {block: (p[:, :half], p[:, half:]) for block, p in zip(self.blocks, prefixes)}
        return self.head(self.backbone.encode(tokens, pairs))  # type: ignore[no-any-return]

    def skewness(self) -> Tensor:
        """L_ortho(P) + L_ortho(K) + L_ortho(A) of all components so far, summed over blocks."""
        return torch.stack([skewness(torch.cat(list(part), dim=1)) for part in self.parts]).sum()


def weights(query: Tensor, keys: Tensor, attentions: Tensor) -> Tensor:
    """α [blocks, batch, M]: the cosine of q ⊙ A_m and K_m, of q [batch, features] and A, K [blocks, M, features]."""
    inner = query @ (attentions * keys).mT
    squares = query.square() @ attentions.square().mT  # of the lengths of q ⊙ A_m, which are M vectors for an input
    cosine: Tensor = inner / (squares * keys.square().sum(2)[:, None]).clamp(min=TINY).sqrt()
    return cosine


def skewness(rows: Tensor) -> Tensor:
    """‖BBᵀ − I‖² of B [blocks, M, numbers in a row], summed over blocks: 0 where all rows are orthonormal."""
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (rows @ rows.mT - identity).square().sum()


def orthonormal(rows: Tensor, older: Tensor) -> Tensor:
    """What Gram-Schmidt makes of rows [blocks, new, numbers in a row] behind older ones, of any lengths and angles."""
    q, r = torch.linalg.qr(torch.cat([older, rows], dim=1).mT.double())
    upright: Tensor = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]  # Gram-Schmidt's signs, whatever library it is
    return upright.mT[:, older.shape[1] :].to(rows)
