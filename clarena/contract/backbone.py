"""Model = backbone + head: what turns inputs into features, and features into scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, overload

import torch
from torch import Tensor, nn

from clarena.errors import UsageError, unknown_name
from clarena.toolbox.adapters import Adapters, Lora, adapters, lora, weights
from clarena.toolbox.attention import Prefixes, Tokens, prefixed
from clarena.toolbox.modules import evaluating


class SeenData(NamedTuple):
    """Data that weights were trained on, by the names under which a benchmark may have them.

    Attributes:
        names: what they are called; the first is shown.
        classes: the names of each class that the weights were trained to tell apart; none where there were no labels.
    """

    names: Sequence[str]
    classes: Sequence[Sequence[str]] = ()


class Backbone(nn.Module):
    """Turns inputs [batch, *input_shape] into features [batch, features].

    A subclass takes `input_shape` and then typed keyword options (documented by `pydantic.Field`), and sets
    `self.features` to the number of features.

    Beside `forward` it has a face, by which a strategy reaches into it whatever library it is from. All backbones with
    linear layers have `adapt`; those that say so have `stages`; and those that work on tokens (`token_width`) say how
    these are made (`embed`), what the blocks make of them (`process`) and how features come of that (`pool`). Then
    `forward(x)` is `encode(embed(x))`, bit for bit.

    Attributes:
        name: what the command line calls it.
        revision: raised by the author when the same options give another network; part of a track's digest.
        takes_tokens: whether inputs are tokens, whole numbers. It is then given, after `input_shape`, how many there
            are (`vocabulary`) and whether every token has a label (`per_token`), in which case features are
            [batch, time, features].
        trained_on: what data the weights behind `weights=default` were trained on, in words for `clarena describe`
            and the track; None where there are no such weights, or nothing is known of them.
        features: the number of features.
        token_width: the number of features of a token between its blocks; None where it works on no tokens.
        causal: whether no token sees those after it. Prompts, which stand in front, then see nothing.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    takes_tokens: ClassVar[bool] = False
    trained_on: ClassVar[str | None] = None
    features: int
    token_width: int | None = None
    causal: bool = False

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The class for an argument, for one registered as `family:PLACEHOLDER`; the same one every time."""
        raise UsageError(f"The backbone {cls.name} takes no argument.")

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the weights that the option `weights` names; None where it names none.

        It stands for that option in a track's digest, so that what the weights are counts, and not where they lie.

        Raises:
            UsageError: when there are no such weights.
        """
        return None

    @classmethod
    def seen_data(cls) -> Sequence[SeenData]:
        """The data of `trained_on` by name, so that a track can say what of them its benchmark asks for again."""
        return ()

    @staticmethod
    def start(layer: nn.Linear) -> None:
        """Give a layer added to this backbone (a block of the head, a lateral) its first values; default: PyTorch's."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Let a layer have the name of a method below (`self.pool = …`), where a backbone has not that face."""
        super().__setattr__(name, value)
        if isinstance(value, nn.Module) and name in vars(Backbone):
            vars(self)[name] = value  # which is looked at before the class; else the method would be found

    def make_head(self) -> "Head":
        """The head that stands on this backbone; by default a linear classifier of its features."""
        return Head(self.features, self.start)

    def probe(self, scores: "Callable[[Head, Tensor], Tensor]") -> dict[str, float]:
        """What is left of the general ability of its weights: numbers by name, none by default.

        The host asks before learning and after each experience, in evaluation, and keeps them in the record.

        Args:
            scores: of this model with another head on the backbone, and all that a strategy has added to it:
                `scores(head, x)`.
        """
        return {}

    def stages(self) -> dict[str, nn.Module]:
        """The modules of which each ends a stage, in order, by their names in `named_modules`; of tokens, the blocks.

        Raises:
            UsageError: where the backbone does not say.
        """
        raise UsageError(f"The backbone {self.name} does not say what its stages are: {_OTHERS}")

    def embed(self, x: Tensor) -> Tokens:
        """Tokens of inputs [batch, *input_shape], with their positions; not augmented, unlike what `forward` sees.

        Raises:
            UsageError: where the backbone works on no tokens.
        """
        raise UsageError(self._no_tokens())

    def process(self, tokens: Tokens) -> Tensor:
        """What all blocks make of tokens: [batch, tokens, token_width]. Call `outputs`."""
        raise UsageError(self._no_tokens())

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """Features [batch, features] of what the blocks made of these tokens; prompts among them do not count."""
        raise UsageError(self._no_tokens())

    def outputs(self, tokens: Tokens, prefixes: Prefixes | None = None) -> Tensor:
        """What all blocks make of tokens, prompts included: [batch, tokens, token_width].

        Args:
            tokens: from `embed`, behind prompts where there are any: `tokens.after(prompts)`. Positions were added to
                the tokens of the input, and are to no prompt.
            prefixes: by block, from 0, a key and a value p_K, p_V [batch or 1, length, token_width] that all queries
                also see; they are not projected, as in the code of DualPrompt and CODA-Prompt.

        Raises:
            UsageError: where it works on no tokens, or prefixes do not reach its attention or fit it.
        """
        if not prefixes:
            return self.process(tokens)
        with prefixed(self.name, self.stages().values(), prefixes):
            return self.process(tokens)

    def encode(self, tokens: Tokens, prefixes: Prefixes | None = None) -> Tensor:
        """Features [batch, features] of tokens, as `outputs` takes them."""
        return self.pool(self.outputs(tokens, prefixes), tokens)

    @overload
    def adapt(
        self, kind: Literal["lora"], *, rank: int, on: Sequence[str] = ("query", "value"), scale: float = 1.0
    ) -> Lora: ...

    @overload
    def adapt(
        self,
        kind: Literal["adapter"],
        *,
        bottleneck: int,
        scale: float = 1.0,
        place: Literal["after", "beside"] = "after",
    ) -> Adapters: ...

    def adapt(self, kind: str, **options: Any) -> Any:
        """What can be added to this backbone: a module for the strategy to hold; it acts within `with ….on(backbone)`.

        `lora`: low-rank terms of `rank` on the weights that make the `query`, `key`, `value` or `output` of attention,
        on `other` ones, or on `all`. `adapter`: a `bottleneck` after each block of tokens, or beside its second half.
        Both grow by branches, and add 0 when they are new. Call it in `setup`, within `context.seeds.scope("init")`.

        Raises:
            UsageError: where it has no such layers.
        """
        if kind == "lora":
            return lora(self, self.name, **options)
        if kind == "adapter":
            if self.token_width is None:
                raise UsageError(f"Adapters stand at blocks of tokens. {self._no_tokens()}")
            return adapters(self, self.name, list(self.stages()), self.token_width, **options)
        raise unknown_name("kind of adapter", kind, ["lora", "adapter"])

    def _no_tokens(self) -> str:
        return f"The backbone {self.name} works on no tokens: {_OTHERS}"


_OTHERS = "choose one that does, such as vit-tiny for images or text-transformer for texts (clarena list)."


def require_face(backbone: Backbone, needs: frozenset[str]) -> None:
    """Raise `UsageError` where a backbone has not what a strategy needs of it: tokens, prefixes, adapters."""
    if needs & {"tokens", "prefixes"} and backbone.token_width is None:
        raise UsageError(backbone._no_tokens())
    if "adapters" in needs and not weights(backbone):
        raise UsageError(f"The backbone {backbone.name} has no linear layers to which anything could be added.")
    if "prefixes" in needs:
        width, like = backbone.token_width or 0, next(iter(backbone.state_dict().values()))
        pair = (torch.zeros(1, 1, width, device=like.device),) * 2
        with torch.no_grad(), evaluating(backbone):
            tokens = Tokens(torch.zeros(1, 2, width, device=like.device), torch.ones(1, 2, device=like.device).bool())
            backbone.outputs(tokens, dict.fromkeys(range(len(backbone.stages())), pair))


class Head(nn.Module):
    """A linear classifier whose outputs grow in blocks: scores [batch, …, outputs].

    Growing adds a block and leaves the older ones untouched, so no parameter ever changes its shape: an optimiser's
    state, an importance or an anchor of the older outputs stays valid as it is, and new outputs are free of penalties.

    A backbone may have a head of another kind (`Backbone.make_head`): one that reads what its outputs are called
    (`read_names`), or asks the backbone for more than its features (`ask`).
    """

    def __init__(self, features: int, start: Callable[[nn.Linear], None] = Backbone.start) -> None:
        super().__init__()
        self.features = features
        self.start = start
        self.blocks = nn.ModuleList()

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return sum(block.out_features for block in self.blocks)  # type: ignore[misc]

    def grow(self, outputs: int) -> None:
        """Grow to `outputs` outputs in all; does nothing where there are as many already."""
        missing = outputs - self.outputs
        if missing > 0:
            block = nn.Linear(self.features, missing)
            self.start(block)
            self.blocks.append(block)

    def read_names(self, names: Sequence[str]) -> None:
        """Be told what the outputs that exist by now are called, before they grow; by default it is all the same."""

    def ask(self, backbone: Backbone, x: Tensor) -> Tensor:
        """Scores [batch, …, outputs] of inputs [batch, *input_shape]: of the features that the backbone gives."""
        return self(backbone(x))  # type: ignore[no-any-return]

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, …, outputs] of features [batch, …, features]."""
        if len(self.blocks) == 1:
            return self.blocks[0](features)  # type: ignore[no-any-return]
        if not self.blocks:
            return features.new_zeros(*features.shape[:-1], 0)
        return torch.cat([block(features) for block in self.blocks], dim=-1)

    def structure(self) -> list[int]:
        """The number of outputs of each block."""
        return [block.out_features for block in self.blocks]  # type: ignore[misc]

    def build(self, structure: list[int]) -> None:
        """Have these blocks."""
        self.blocks = nn.ModuleList()
        for outputs in structure:
            self.grow(self.outputs + outputs)


class Model(nn.Module):
    """A backbone and the head on top of it.

    With `precision="bf16"` a model in training mode computes in bfloat16 where torch's autocast does; parameters stay
    as they are, and so do scores. In evaluation mode (tests, importances, recorded targets) nothing is rounded.

    Attributes:
        backbone, head, precision: what it is made of, and what it computes in.
        adapter: what acts on the backbone in every forward pass: what `backbone.adapt` gives, or any module with
            `on(backbone)`; None: nothing. Set it in `setup`; its parameters are then the model's.
    """

    def __init__(self, backbone: Backbone, head: Head | None = None, precision: str = "float32") -> None:
        super().__init__()
        self.backbone, self.precision = backbone, precision
        self.adapter: Any
        self.register_module("adapter", None)  # its parameters come before the head's, which grows at the end
        self.head = head or backbone.make_head()

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return self.head.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, …, outputs] of inputs [batch, *input_shape]."""
        if self.adapter is None:
            return self._scores(x)
        with self.adapter.on(self.backbone):
            return self._scores(x)

    def probe(self) -> dict[str, float]:
        """What the backbone's probe measures, of this model as it is now."""
        with torch.no_grad(), evaluating(self):
            return self.backbone.probe(self._under)

    def _under(self, head: Head, x: Tensor) -> Tensor:
        """Scores with another head in the place of its own; whatever a subclass does in `forward` is done."""
        own = self.head
        self.head = head
        try:
            return self(x)  # type: ignore[no-any-return]
        finally:
            self.head = own

    def _scores(self, x: Tensor) -> Tensor:
        if self.precision == "bf16" and self.training:
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                return self.head.ask(self.backbone, x).float()
        return self.head.ask(self.backbone, x)


def require_model(strategy: nn.Module, name: str) -> None:
    """Raise `UsageError` where a strategy holds no model that computes in bfloat16."""
    if not any(isinstance(module, Model) and module.precision == "bf16" for module in strategy.modules()):
        raise UsageError(
            f"{name} trains a network of its own, which protocol.precision=bf16 does not reach. Leave it out, or "
            "choose another strategy: clarena list."
        )
