"""Labels scored by the likelihood of their words: by hand, in any company, in a run; on a tiny random Llama."""

import copy
import math

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs
from tiny import walk
from torch import Tensor

import_torchvision()  # which transformers imports
needs("transformers")

import transformers  # noqa: E402
from clarena_transformers.decoders import Decoder, NextToken, Verbalised  # noqa: E402
from clarena_transformers.label_tree import LabelTree  # noqa: E402

from clarena import Model, UsageError  # noqa: E402
from clarena.contract.target import Classes  # noqa: E402

LETTERS = "#\n T:abcdefghijklmnopqrstuvwxyz0123456789"
LENGTH = 6
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""A Llama's norms round to float32, whatever the rest is in."""

NAMES = ["cat", "dog", "catalogue", "a", "do", "zebra 1"]
TEXTS = torch.tensor([[9, 8, 7, 6, 5, 4], [11, 12, 0, 0, 0, 0], [30, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


class Tiny(Decoder):
    """A Llama of two layers over letters, random."""

    name = "tiny-llama"

    def build(self, vocabulary: int, length: int):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, use_cache=False, attn_implementation="sdpa",
            initializer_range=0.3,
        )  # fmt: skip
        return transformers.LlamaModel(config)

    def encode_text(self, text: str) -> list[int]:
        return [LETTERS.index(letter) for letter in text]


def made(names=NAMES, double=True, **options) -> Model:
    backbone = Tiny((LENGTH,), len(LETTERS), **options)
    model = Model(backbone.double() if double else backbone).eval()
    model.head.read_names(names)
    model.head.grow(len(names))
    return model


def by_hand(model: Model, x: Tensor, names=NAMES, mean=False) -> Tensor:
    """Each label of each text alone: the whole text through the network, and the probabilities of the label in it."""
    backbone = model.backbone
    before, rest = backbone.template.split("{text}")
    question, after = rest.split("{label}")
    found = []
    for row in x:
        length = max(1, int((row != 0).sum()))
        for name in names:
            blank = " " if question.endswith(" ") else ""
            asked = [*backbone.encode_text(before), *row[:length].tolist()]
            asked += backbone.encode_text(question.removesuffix(" "))
            label = backbone.encode_text(f"{blank}{name}{after}")
            hidden = backbone.network(input_ids=torch.tensor([asked + label])).last_hidden_state[0]
            likely = (hidden @ backbone.network.embed_tokens.weight.T).log_softmax(-1)
            terms = [likely[len(asked) + place - 1, token] for place, token in enumerate(label)]
            found.append(sum(terms) / (len(terms) if mean else 1))
    return torch.stack(found).reshape(len(x), len(names))


TEMPLATES = ["{text}\ntopic: {label}\n", "{text}{label}", "what is {text} : {label}", "a{text} b{label} c"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("mean", [False, True])
def test_a_score_is_the_probability_of_the_label_in_the_whole_text(template, mean):
    model = made(template=template, length_norm=mean)
    torch.testing.assert_close(model(TEXTS), by_hand(model, TEXTS, mean=mean), **CLOSE)
    assert model(TEXTS).std(0).min() > 1e-3  # the text counts


def test_the_loss_trains_on_the_words_of_labels_alone():
    model, y, losses = made(), torch.tensor([0, 2, 1, 4]), []
    for scores in (model(TEXTS), by_hand(model, TEXTS)):
        model.zero_grad()
        Classes().loss(scores, y).backward()
        losses.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_another_label_changes_no_score():
    few, many = made(NAMES[:3]), made(NAMES)
    torch.testing.assert_close(many(TEXTS)[:, :3], few(TEXTS), **CLOSE)
    reversed_ = made(NAMES[::-1])
    torch.testing.assert_close(reversed_(TEXTS).flip(1), many(TEXTS), **CLOSE)


def test_a_text_has_its_scores_whatever_is_beside_and_behind_it(monkeypatch):
    model = made()
    together = model(TEXTS)
    for row, text in enumerate(TEXTS):
        short = text[: max(1, int((text != 0).sum()))]
        torch.testing.assert_close(model(short[None])[0], together[row], **CLOSE)
    monkeypatch.setattr("clarena_transformers.decoders.AT_ONCE", 60)  # in pieces
    with torch.no_grad():
        torch.testing.assert_close(model(TEXTS), together, **CLOSE)


def test_labels_of_one_token_are_the_softmax_over_their_rows():
    names = ["c", "z", "7"]
    model = made(names, template="{text}:{label}")
    rows = model.backbone.encode_text("cz7")
    for row, scores in zip(TEXTS, model(TEXTS)):
        asked = [*row[: max(1, int((row != 0).sum()))].tolist(), *model.backbone.encode_text(":")]
        hidden = model.backbone.network(input_ids=torch.tensor([asked])).last_hidden_state[0, -1]
        logits = model.backbone.network.embed_tokens.weight[rows] @ hidden
        torch.testing.assert_close(scores.softmax(0), logits.softmax(0), **CLOSE)


def test_a_label_that_another_begins_with_is_told_apart_by_what_comes_after():
    without, behind = (
        made(["do", "dog"], template=template)(TEXTS) for template in ("{text}{label}", "{text}{label}\n")
    )
    assert (without[:, 0] > without[:, 1]).all()  # whatever the text is: each word more is a factor below one
    assert (behind.exp().sum(1) < 1).all()  # events that exclude each other


def test_all_labels_take_one_pass_and_no_token_twice():
    model, seen = made(), []
    model.backbone.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    model(TEXTS)
    nodes = ["\nTopic:", " ", "cat", "alogue", "dog", "a", "zebra 1"]  # \n behind each label need not be seen
    assert seen == [(4, LENGTH + sum(map(len, nodes)))]


def test_the_tree_says_who_sees_whom():
    tree = LabelTree([7], [5, 6], [[1, 2, 3], [1, 4], [8]])
    assert tree.nodes.tolist() == [5, 6, 1, 2]
    assert tree.depth.tolist() == [0, 1, 2, 3]
    assert tree.asked.tolist() == [2, 3, 4]  # behind 6, behind 1, behind 2
    assert sorted(tree.edge_token.tolist()) == [1, 2, 3, 4, 8]
    assert tree.belongs.sum(0).tolist() == [3, 2, 1]
    inputs, places, seen = tree.behind(torch.tensor([[9, 9, 0]]), torch.tensor([[True, True, False]]))
    assert inputs.tolist() == [[7, 9, 9, 0, 5, 6, 1, 2]]
    assert places.tolist() == [[0, 1, 2, 3, 3, 4, 5, 6]]
    assert seen[0, 4:].int().tolist() == [
        [1, 1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 1, 1, 0],
        [1, 1, 1, 0, 1, 1, 1, 1],
    ]


def test_low_rank_terms_reach_the_scores_and_add_nothing_at_first():
    model = made()
    lora = model.backbone.adapt("lora", rank=2)
    with torch.no_grad():
        plain = model(TEXTS)
        with lora.on(model.backbone):
            assert torch.equal(model(TEXTS), plain)
            for branch in lora.branches:
                for b in branch.up:
                    b.add_(0.1)
        with lora.on(model.backbone):
            assert not torch.allclose(model(TEXTS), plain)


# ---- In a run ----

TOKENS = {"levels": len(LETTERS) - 1}


def on_tokens(strategy, scenario="class", **protocol):
    options = {"template": "{text}:{label}"}
    return walk(strategy, scenario, backbone=Tiny, options=options, benchmark_options=TOKENS, **protocol)


@pytest.mark.parametrize("strategy", [Finetune, ER, EWC])
def test_any_strategy_learns_labels_by_their_words(strategy):
    ours = on_tokens(strategy, learning_rate=0.01, optimizer="adam", epochs=15)
    model, space = ours.strategy.model, ours.realised.space
    assert (model.outputs, model.head.names) == (0, [])
    first = ours.step(0)
    assert tuple(model.head.names) == ours.realised.stream.output_names[: first.outputs]
    ours.step(1)
    last = ours.step(2)
    assert tuple(model.head.names) == ours.realised.stream.output_names == space.names
    assert not list(model.head.parameters())
    assert (ours.strategy.predict(last.x).argmax(1) == last.y).float().mean() > 0.9


def test_a_model_that_was_kept_knows_its_labels_again():
    ours = on_tokens(ER).finish()
    state = copy.deepcopy(ours.strategy.state_dict())
    other = on_tokens(ER)
    other.realised.begin([0, 1, 2])
    other.strategy.load_state_dict(state)
    assert other.strategy.model.head.names == ours.strategy.model.head.names
    assert other.predict() == ours.predict()
    assert not any("tree" in name for name in state if isinstance(name, str))


def test_scores_in_bfloat16_are_close():
    model = made(double=False)
    exact = model(TEXTS)
    rounded = Model(model.backbone, model.head, precision="bf16").train()(TEXTS)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.3)
    assert not torch.equal(rounded, exact)


def test_a_linear_head_stands_on_it_where_one_is_asked_for():
    backbone = Tiny((LENGTH,), len(LETTERS), labels="linear").eval()
    model = Model(backbone)
    model.head.read_names(["a", "b"])
    model.head.grow(2)
    assert torch.equal(model(TEXTS), model.head.blocks[0](backbone(TEXTS)))


# ---- The next token ----


def test_the_next_token_is_predicted_as_transformers_does():
    backbone = Tiny((LENGTH,), len(LETTERS), True).eval()
    model = Model(backbone)
    assert isinstance(model.head, NextToken)
    assert model.outputs == 0
    model.head.grow(len(LETTERS))
    config = copy.deepcopy(backbone.network.config)
    config.tie_word_embeddings = True
    whole = transformers.LlamaForCausalLM(config).eval()
    whole.model.load_state_dict(backbone.network.state_dict())
    assert torch.equal(model(TEXTS), whole(TEXTS).logits)
    again = NextToken(backbone)
    again.build(model.head.structure())
    assert again.outputs == len(LETTERS)
    with pytest.raises(UsageError, match=r"own 41 tokens, but here tokens have one of 9 labels.*labels=linear"):
        NextToken(backbone).grow(9)


# ---- The probe ----

FIXED = "the cat sat on the mat: 7 zebras"


@pytest.fixture
def fixed_text(monkeypatch):
    monkeypatch.setattr("clarena_text.language.end_of", lambda name, characters: FIXED)


@torch.no_grad()
def bits_by_hand(model: Model) -> float:
    tokens = model.backbone.encode_text(FIXED)
    hidden = model.backbone.network(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    likely = (hidden @ model.backbone.network.embed_tokens.weight.T).log_softmax(-1)
    return -float(sum(likely[place, token] for place, token in enumerate(tokens[1:]))) / math.log(2) / len(FIXED)


@pytest.mark.parametrize("per_token", [False, True])
def test_the_probe_is_bits_for_each_byte_of_a_fixed_text(fixed_text, per_token):
    model = Model(Tiny((LENGTH,), len(LETTERS), per_token, probe_text="shakespeare")).train()
    head = model.head
    assert model.probe() == {"probe_bits_per_byte": pytest.approx(bits_by_hand(model), rel=1e-5)}
    assert model.head is head
    assert model.training
    assert Model(Tiny((LENGTH,), len(LETTERS))).probe() == {}


class Extended(Model):
    """A model of a stranger's, which adds low-rank terms in a forward of its own."""

    def __init__(self, backbone: Tiny) -> None:
        super().__init__(backbone.requires_grad_(False))
        self.lora = backbone.adapt("lora", rank=1)

    def forward(self, x: Tensor) -> Tensor:
        with self.lora.on(self.backbone):
            return super().forward(x)


def test_what_a_strategy_has_added_is_probed_too(fixed_text):
    model = Extended(Tiny((LENGTH,), len(LETTERS), probe_text="shakespeare"))
    before = model.probe()
    assert before == Model(model.backbone).probe()  # new terms add nothing, to the last bit
    with torch.no_grad():
        for b in model.lora.branches[0].up:
            b.add_(0.1)
        with model.lora.on(model.backbone):
            expected = bits_by_hand(model)
    assert model.probe()["probe_bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert model.probe() != before


# ---- What cannot be ----


def test_labels_that_do_not_fit_behind_a_text_are_named():
    head = made(["a"]).head
    head.read_names(["a", "b" * 17])  # 6 of the text, 7 of the question, a space before and a line after: 32
    with pytest.raises(UsageError, match=r"label '' take 38"):
        made([], template="{text}" + "q" * 32 + "{label}")
    with pytest.raises(UsageError, match=r"32 tokens; texts of 6 .* label 'b{18}' take 33\. Cut .*benchmark\.length"):
        head.read_names(["a", "b" * 18])


@pytest.mark.parametrize("template", ["{text}", "{label}{text}", "{text}{label}{label}", "{text}{text}{label}", ""])
def test_a_template_has_a_text_and_then_a_label(template):
    with pytest.raises(UsageError, match=r"must have \{text\} and then \{label\}, each once"):
        Tiny((LENGTH,), len(LETTERS), template=template)


def test_features_alone_are_not_enough_and_names_are_needed():
    for per_token in (False, True):
        for use in (lambda head: head(torch.zeros(1, 16)), lambda head: head.blocks[-1]):
            with pytest.raises(UsageError, match=r"works on the head's own layers, and tiny-llama.*labels=linear"):
                use(Tiny((LENGTH,), len(LETTERS), per_token).make_head())
    head = Tiny((LENGTH,), len(LETTERS)).make_head()
    assert isinstance(head, Verbalised)
    with pytest.raises(UsageError, match="nobody says what these are called"):
        head.grow(2)
    assert made([])(TEXTS).shape == (4, 0)
