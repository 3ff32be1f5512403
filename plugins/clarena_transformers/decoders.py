"""Decoders that predict by their own vocabulary: the next token, or a label by the likelihood of its words."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, Head, UsageError

from .backbones import TextNetwork
from .label_tree import LabelTree

TEXT, LABEL = "{text}", "{label}"
PROBED = 4000
"""Characters of the text that is a probe."""
AT_ONCE = 2048
"""Tokens that are looked at in one piece where no gradient is taken: what a vocabulary gives for each takes memory."""


class Decoder(TextNetwork):
    """A decoder with a vocabulary of its own, whose embedding is also what it predicts by.

    Where every token has a label, that is the next one, and scores are the decoder's own logits. Where a text has one,
    the score of a label c is the likelihood of its words, written behind the text as the template says:

        s_c = Σ_t ln p(w_c,t | prompt, w_c,<t)

    Only the label's own words count: not those of the prompt, nor the text. The text never holds the other labels. Of
    these scores the target takes its loss like of any other: the cross-entropy over the labels in play is the
    likelihood of the right one among them, and its gradient goes through the words of labels alone.

    All labels are scored in one pass: their words form a tree behind the text, in which each sees the text and what
    comes before it in its own label, and nothing of other labels. So the text's keys and values, and those of words
    that labels begin with alike, are computed once.
    """

    network: Any

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        labels: Annotated[
            Literal["words", "linear"],
            Field(
                description="Score a label by the likelihood of its words (the next token by the model's own "
                "predictions), or by a linear classifier of the features of the last token."
            ),
        ] = "words",
        template: Annotated[
            str,
            Field(
                description="What is written behind the text: a question, and where the label stands. What comes after "
                "the label tells it from a longer one that begins alike."
            ),
        ] = "{text}\nTopic: {label}\n",
        length_norm: Annotated[
            bool, Field(description="Divide the likelihood of a label by the number of its tokens.")
        ] = False,
        probe_text: Annotated[
            Literal["none", "shakespeare", "wikitext-2"],
            Field(
                description="A text whose bits per byte are measured before learning and after each experience, as a "
                "probe of what is left of the model's general ability: the end of tiny Shakespeare, or of the test "
                "text of WikiText-2; downloaded once. language-stream trains on neither."
            ),
        ] = "none",
        **options: Any,
    ) -> None:
        before, text, behind = template.partition(TEXT)
        prompt, label, after = behind.partition(LABEL)
        if not (text and label) or TEXT in behind or LABEL in after:
            raise UsageError(
                f"backbone.template must have {TEXT} and then {LABEL}, each once; it is {template!r}. The first stands "
                "for what is to be told apart, the second for the words of a class."
            )
        self.labels = labels
        self.template = template
        self.length_norm = length_norm
        self.probe_text = probe_text
        super().__init__(input_shape, vocabulary, per_token, **options)
        question = prompt.rstrip(" ")  # a space belongs to the word behind it
        self.written = before, question, prompt[len(question) :], after

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text, none added at its ends."""
        raise NotImplementedError

    def make_head(self) -> Head:
        """Its own predictions, or a linear classifier."""
        if self.labels == "linear":
            return super().make_head()
        return NextToken(self) if self.per_token else Verbalised(self)

    def probe(self, scores: Callable[[Head, Tensor], Tensor]) -> dict[str, float]:
        """Bits for each byte of a fixed text: those of all its tokens but the first, which nothing is known of."""
        if self.probe_text == "none":
            return {}
        from clarena_text.language import end_of

        text = end_of(self.probe_text, PROBED)
        tokens = torch.tensor([self.encode_text(text)], device=self._embedding().weight.device)
        likely = scores(NextToken(self), tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])
        return {"probe_bits_per_byte": float(-likely.double().sum()) / math.log(2) / len(text.encode())}

    def logits(self, hidden: Tensor) -> Tensor:
        """What it predicts after each token [batch, …, vocabulary], of what the last block made of it."""
        return F.linear(hidden, self._embedding().weight)

    def _embedding(self) -> nn.Embedding:
        return self.network.get_input_embeddings()  # type: ignore[no-any-return]

    def tree(self, names: Sequence[str]) -> LabelTree:
        """The words of labels as a tree; raises `UsageError` where there is no place for them behind a text."""
        before, question, space, after = self.written
        labels = [self.encode_text(f"{space}{name}{after}") for name in names]
        found = LabelTree(self.encode_text(before), self.encode_text(question), labels)
        (length,), places = self.input_shape, self.network.config.max_position_embeddings
        needed = len(found.before) + length + len(found.question) + max(map(len, labels), default=0)
        if needed > places:
            longest = max(names, key=lambda name: len(self.encode_text(name)), default="")
            raise UsageError(
                f"{self.name} has places for {places} tokens; texts of {length} with the template and the label "
                f"{longest[:60]!r} take {needed}. Cut the texts (--set benchmark.length=N), or name classes shortly."
            )
        return found

    def label_scores(self, x: Tensor, tree: LabelTree) -> Tensor:
        """Scores [batch, labels] of texts x [batch, time], 0 where they have ended."""
        if torch.is_grad_enabled():
            return self._label_scores(x, tree)
        rows = max(1, AT_ONCE // (x.shape[1] + tree.size))
        return torch.cat([self._label_scores(part, tree) for part in x.split(rows)])

    def _label_scores(self, x: Tensor, tree: LabelTree) -> Tensor:
        kept = self._kept(x)
        inputs, places, seen = tree.behind(x, kept)
        hidden = self._hidden(inputs, attention_mask=seen[:, None], position_ids=places)
        last = len(tree.before) + tree.ends(kept) - 1  # the last token of each text
        root = hidden.gather(1, last[:, None, None].expand(-1, 1, self.features))
        states = torch.cat([root, hidden[:, hidden.shape[1] - len(tree.nodes) :]], dim=1)[:, tree.asked]
        logits = self.logits(states)  # [batch, asked, vocabulary]
        likely = logits[:, tree.edge_from, tree.edge_token] - logits.logsumexp(-1)[:, tree.edge_from]
        return likely @ tree.members(self.length_norm, likely)


class _NoBlocks(Sequence[nn.Module]):
    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(())

    def __getitem__(self, number: Any) -> Any:
        raise _without_layers(self.name)


def _without_layers(name: str) -> UsageError:
    return UsageError(
        f"This strategy works on the head's own layers, and {name} predicts by its vocabulary, without any. Let a "
        "linear classifier stand on it: --set backbone.labels=linear."
    )


class WithoutLayers(Head):
    """A head that has no parameters: it asks the backbone, and features alone are not enough for it."""

    def __init__(self, backbone: Decoder) -> None:
        super().__init__(backbone.features)
        self.name = backbone.name

    @property
    def blocks(self) -> Any:  # type: ignore[override]
        """None, to go through or to count; who asks for one of them has a `UsageError`."""
        return _NoBlocks(self.name)

    def forward(self, features: Tensor) -> Tensor:
        """Raises `UsageError` for a strategy that has features to be classified."""
        raise _without_layers(self.name)


class NextToken(WithoutLayers):
    """A decoder's own predictions of the next token, by the backbone's embedding."""

    def __init__(self, backbone: Decoder) -> None:
        super().__init__(backbone)
        self.vocabulary = backbone._embedding().num_embeddings
        self.grown = 0

    @property
    def outputs(self) -> int:
        """All tokens of the vocabulary, or none yet."""
        return self.grown

    def grow(self, outputs: int) -> None:
        """Have all of them; raises `UsageError` where outputs are no tokens."""
        if outputs not in (0, self.vocabulary):
            raise UsageError(
                f"{self.name} predicts one of its own {self.vocabulary} tokens, but here tokens have one of {outputs} "
                "labels. Where these are not its next token: --set backbone.labels=linear."
            )
        self.grown = outputs

    def ask(self, backbone: Backbone, x: Tensor) -> Tensor:
        """Logits [batch, time, vocabulary]."""
        assert isinstance(backbone, Decoder)
        return backbone.logits(backbone._hidden(x))

    def structure(self) -> Any:
        """How many outputs there are."""
        return self.grown

    def build(self, structure: Any) -> None:
        """Have as many."""
        self.grow(structure)


class Verbalised(WithoutLayers):
    """Labels by the likelihood of their words. What it remembers are the labels' names."""

    def __init__(self, backbone: Decoder) -> None:
        super().__init__(backbone)
        self.make_tree = backbone.tree
        self.names: list[str] = []
        self.tree = self.make_tree([])

    @property
    def outputs(self) -> int:
        """The number of labels."""
        return len(self.names)

    def read_names(self, names: Sequence[str]) -> None:
        """Have labels of these names."""
        if list(names) != self.names:
            self.names = list(names)
            self.tree = self.make_tree(self.names)

    def grow(self, outputs: int) -> None:
        """Nothing is to be done where the names are there; raises `UsageError` where they are not."""
        if outputs > self.outputs:
            raise UsageError(f"{self.name} scores labels by their words, and nobody says what these are called.")

    def ask(self, backbone: Backbone, x: Tensor) -> Tensor:
        """The likelihood of each label [batch, outputs]."""
        assert isinstance(backbone, Decoder)
        return backbone.label_scores(x, self.tree)

    def structure(self) -> Any:
        """The names."""
        return list(self.names)

    def build(self, structure: Any) -> None:
        """Have labels of these names."""
        self.read_names(structure)
