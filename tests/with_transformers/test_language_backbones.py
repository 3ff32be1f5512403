"""GPT-2 and its like as backbones: their own numbers, who sees whom, LoRA, files of weights, and whole runs."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs

import_torchvision()  # which transformers imports
needs("transformers", "peft")

import huggingface_hub  # noqa: E402
import transformers  # noqa: E402
from clarena_native.strategies.architecture.frozen import FrozenFeatures  # noqa: E402
from clarena_native.strategies.references.finetune import Finetune  # noqa: E402
from clarena_native.strategies.regularisation.ewc import EWC  # noqa: E402
from clarena_transformers import hub  # noqa: E402
from clarena_transformers.backbones import GPT2, HubModel  # noqa: E402
from cli_command import clarena, smoke  # noqa: E402

from clarena import Model, UsageError, evaluate, fisher_diagonal  # noqa: E402
from clarena.checks import Suite  # noqa: E402
from clarena.toolbox.modules import state_bytes  # noqa: E402

TINY = {"layers": 2, "heads": 2, "width": 16}
LENGTH, TOKENS = 8, 50


def tiny(per_token: bool = False, **options: object) -> GPT2:
    torch.manual_seed(0)
    return GPT2((LENGTH,), TOKENS, per_token, **TINY | options)


def texts(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, TOKENS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    torch.manual_seed(1)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": LENGTH}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=TOKENS, **sizes)).eval()


@pytest.fixture(scope="module")
def folder(original: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrained") / "tiny-gpt2"
    original.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrained") / "tiny-bert"
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=TOKENS, **sizes)).save_pretrained(path)
    return path


def test_the_default_size_is_gpt2_small():
    with torch.device("meta"):
        network = transformers.GPT2Model(transformers.GPT2Config())
    published = sum(p.numel() for p in network.parameters())
    assert published == 124_439_808  # "124 M"
    d = 16  # of one layer: attention 4d² + 4d, network 8d² + 5d, two norms 4d
    assert sum(p.numel() for p in tiny().parameters()) == 2 * (12 * d**2 + 13 * d) + (TOKENS + LENGTH) * d + 2 * d


def test_pretrained_features_are_those_of_transformers(original, folder):
    x = texts()
    expected = original.transformer(x).last_hidden_state
    torch.testing.assert_close(GPT2((LENGTH,), TOKENS, True, weights=str(folder)).eval()(x), expected)
    torch.testing.assert_close(HubModel.of(str(folder))((LENGTH,), TOKENS, True).eval()(x), expected)
    x[0, 5:] = 0
    chosen = torch.stack([original.transformer(x).last_hidden_state[0, 4], expected[1, -1]])
    torch.testing.assert_close(GPT2((LENGTH,), TOKENS, weights=str(folder)).eval()(x)[:2], chosen)


def test_padding_changes_nothing(encoder):
    for backbone in (tiny(), HubModel.of(str(encoder))((LENGTH,), TOKENS)):
        backbone.eval()
        text = torch.tensor([[3, 4, 0, 5, 0, 0, 0, 0]])  # a token 0 within is one of the model's own
        beside = torch.cat([text, texts(1)])
        if backbone.causal:
            torch.testing.assert_close(backbone(text), backbone(text[:, :4]))
        else:
            torch.testing.assert_close(backbone(text[:, :2]), backbone(text[:, [0, 1, 4, 5, 6]]))
        torch.testing.assert_close(backbone(beside)[:1], backbone(text))
        assert backbone(torch.zeros(2, LENGTH, dtype=torch.long)).isfinite().all()


def test_an_encoder_gives_the_mean_over_tokens(encoder):
    backbone = HubModel.of(str(encoder))((LENGTH,), TOKENS).eval()
    expected = transformers.BertModel.from_pretrained(encoder).eval()(texts()).last_hidden_state.mean(1)
    torch.testing.assert_close(backbone(texts()), expected)
    assert HubModel.of(str(encoder)).name == "hf:tiny-bert"


def test_no_token_sees_those_after_it():
    model = tiny(per_token=True).eval()
    one, other = texts(1), texts(1)
    other[:, 3:] = texts(1, seed=9)[:, 3:]
    assert model(one).shape == (1, LENGTH, 16)
    torch.testing.assert_close(model(one)[:, :3], model(other)[:, :3])
    assert not torch.allclose(model(one)[:, 3:], model(other)[:, 3:])


def test_dropout_is_off_unless_it_is_wanted():
    still, dropping = tiny().train(), tiny(dropout=0.5).train()
    assert torch.equal(still(texts()), still(texts()))
    assert not torch.allclose(dropping(texts()), dropping(texts()))
    dropping.eval()
    assert torch.equal(dropping(texts()), still(texts()))


def test_importances_are_those_of_single_gradients():
    model = Model(tiny())
    model.head.grow(3)
    x, y = texts(3), torch.tensor([0, 2, 1])
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for text, label in zip(x, y):
        loss = torch.nn.functional.cross_entropy(model(text[None]), label[None])
        for total, gradient in zip(expected, torch.autograd.grad(loss, list(model.parameters()))):
            total += gradient**2 / 3
    torch.testing.assert_close(fisher_diagonal(model, [(x, y, None)], kind="empirical"), expected)


class TestLora:
    def trained(self, strength: float = 0.1, **options: object) -> tuple[Model, dict[str, torch.Tensor]]:
        model = Model(tiny(lora=3, **options))
        model.head.grow(2)
        before = copy.deepcopy(dict(model.backbone.named_buffers()))
        optimiser = torch.optim.AdamW(model.parameters(), lr=strength, weight_decay=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(texts()), torch.tensor([0, 1, 0, 1])).backward()
            optimiser.step()
        return model, before

    def test_it_starts_as_the_network_itself(self):
        assert torch.equal(tiny(lora=3).eval()(texts()), tiny().eval()(texts()))

    def test_only_adapters_learn(self):
        model, before = self.trained()
        assert before
        assert same(before, dict(model.backbone.named_buffers()))
        names = [name for name, _ in model.backbone.named_parameters()]
        assert names
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        d, rank = 16, 3  # on four layers: d→3d, d→d, d→4d, 4d→d
        assert sum(p.numel() for p in model.backbone.parameters()) == 2 * rank * (4 * d + 2 * d + 5 * d + 5 * d)
        assert all(p.grad is not None and p.grad.any() for p in model.backbone.parameters())

    def test_thawing_the_backbone_thaws_adapters_alone(self):
        model = tiny(lora=3).requires_grad_(False).requires_grad_(True)
        assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)

    def test_merged_into_its_weights_it_is_the_same_network(self):
        model, _ = self.trained()
        merged = copy.deepcopy(model.backbone.network).merge_and_unload()
        last = merged(input_ids=texts()).last_hidden_state[:, -1]
        torch.testing.assert_close(model.backbone.eval()(texts()), last)
        assert not torch.allclose(last, tiny().eval()(texts()))

    def test_its_state_is_whole(self):
        model, _ = self.trained()
        other = Model(tiny(lora=3, weights="none"))
        other.head.build(model.head.structure())
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.eval()(texts()), model.eval()(texts()))
        whole, adapters = state_bytes(model.backbone), sum(p.numel() * 4 for p in model.backbone.parameters())
        assert whole == adapters + sum(p.numel() * 4 for p in tiny().parameters())

    def test_strength_and_dropout(self):
        weak, strong = (self.trained(lora_alpha=alpha)[0].backbone.eval() for alpha in (1, 16))
        x = texts()
        state = weak.state_dict()
        strong.load_state_dict(state)
        assert not torch.allclose(strong(x), weak(x))
        strong.load_state_dict({name: value / 16 if ".lora_B." in name else value for name, value in state.items()})
        torch.testing.assert_close(strong(x), weak(x))
        dropping, _ = self.trained(lora_dropout=0.5)
        dropping.train()
        assert not torch.equal(dropping(x), dropping(x))


def damaged(folder: Path, to: Path, how: str) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights, config = to / "model.safetensors", to / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "absent":
        weights.unlink()
    elif how == "no configuration":
        config.unlink()
    elif how == "no json":
        config.write_text("{")
    elif how == "another model":
        config.write_text(config.read_text().replace('"n_layer": 2', '"n_layer": 3'))
    elif how == "other shapes":
        config.write_text(config.read_text().replace('"n_embd": 16', '"n_embd": 32'))
    return to


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "cannot be read; are they whole"),
        ("absent", "cannot be read; are they whole"),
        ("no configuration", "has no config.json"),
        ("no json", "describes no model of transformers"),
        ("another model", r"of another model: they lack h\.2\."),
        ("other shapes", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(folder, tmp_path, how, message):
    with pytest.raises(UsageError, match=message):
        GPT2((LENGTH,), TOKENS, weights=str(damaged(folder, tmp_path, how)))


def test_what_cannot_be_built_says_why(folder, encoder, tmp_path):
    for options, message in [
        ({"weights": str(folder), "layers": 3}, "has n_layer 2, not 3"),
        ({"weights": str(encoder)}, "holds a bert. Say: --backbone hf:"),
        ({"weights": "./nowhere"}, "there is no folder at .*nowhere"),
        ({"width": 10, "heads": 3}, "cannot divide a width of 10 among 3 heads"),
        ({"layers": 1, "heads": 1, "width": 4, "context": 4}, "places for 4 tokens, but texts have 8"),
    ]:
        with pytest.raises(UsageError, match=message):
            GPT2((LENGTH,), TOKENS, **options)
    with pytest.raises(UsageError, match="knows 50 tokens, the benchmark has 51"):
        GPT2((LENGTH,), 51, weights=str(folder))
    with pytest.raises(UsageError, match="tokens that it would have to predict"):
        HubModel.of(str(encoder))((LENGTH,), TOKENS, True)
    transformers.T5Config(vocab_size=TOKENS, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1).save_pretrained(
        tmp_path
    )
    with pytest.raises(UsageError, match="no plain encoder or decoder"):
        HubModel.of(str(tmp_path))((LENGTH,), TOKENS, weights="none")


def test_a_model_that_cannot_be_had_is_said_at_once(tmp_path, monkeypatch):
    class Unreachable(Exception):
        """Of a library that the hub's is built on."""

    asked = []

    def unreachable(repository, *, local_files_only, **options):
        asked.append(local_files_only)
        raise Unreachable("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, timeout: None)
    outcome = smoke(tmp_path, "finetune", "--backbone", "gpt2", "--set", "backbone.weights=gpt2")
    assert outcome.code == 2
    assert "neither in the cache" in outcome.err
    assert "no network" in outcome.err
    assert "bring its files and name their path" in outcome.err
    assert asked == [True, False]


def test_what_the_hub_sent_in_part_is_asked_for_again(folder, tmp_path, monkeypatch):
    asked = []

    def partial(repository, *, local_files_only, **options):
        asked.append(local_files_only)
        if not local_files_only:
            (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        return str(tmp_path)

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", partial)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, timeout: None)
    assert hub.model_folder("org/tiny", "x") == tmp_path
    assert hub.model_folder("org/tiny", "x") == tmp_path
    assert asked == [True, False, True]


def test_weights_are_known_by_their_content(folder, tmp_path):
    moved = damaged(folder, tmp_path, "")
    known = GPT2.fingerprint({"weights": str(folder)})
    assert GPT2.fingerprint({"weights": str(moved)}) == known
    assert GPT2.fingerprint({"weights": "none"}) is None
    of_hub = HubModel.of(str(folder))
    assert of_hub.fingerprint({"weights": "default"}) == known != of_hub.fingerprint({"weights": "none"})
    (moved / "model.safetensors").write_bytes(b"other")
    assert GPT2.fingerprint({"weights": str(moved)}) != known


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "t.csv"
    rows = [f"word{c} it word{c + n % 3} that{n},class {c}" for c in range(4) for n in range(12)]
    path.write_text("\n".join(["text,label", *rows]))
    return path


def settings(**backbone: object) -> dict[str, dict[str, object]]:
    return {
        "benchmark": {"encode": "tokens", "experiences": 2, "words": 40, "length": 5},
        "backbone": TINY | {"layers": 1} | backbone,
        "protocol": {"epochs": 2, "buffer_size": 8},
    }


@pytest.mark.parametrize("lora", [0, 2])
def test_strategies_run_on_texts_and_again_alike(table, tmp_path, lora):
    runs = [
        evaluate(
            ["finetune", "er", "ewc", "lwf"], benchmark=f"split:{table}", backbone="gpt2", seeds=[0], jobs=1,
            settings=settings(lora=lora), store=tmp_path / name, track=False,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    for first, second in zip(*(run.records for run in runs)):
        assert (first.status, first.reason) == ("finished", None)
        assert first.predictions == second.predictions
        assert [cost.mean_loss for cost in first.costs] == [cost.mean_loss for cost in second.costs]
        assert first.cell == second.cell
    assert len({cost.mean_loss for record in runs[0].records for cost in record.costs}) > 4


@pytest.mark.parametrize(
    ("strategy", "lora", "rules"),
    [
        (Finetune, 2, ["runs", "predict_changes_nothing", "restart"]),  # the last: exact resume in a new process
        (EWC, 0, ["reproducible", "learns", "off"]),  # the last: finetune, bit for bit
        (FrozenFeatures, 2, ["runs", "copies"]),
    ],
)
def test_the_kit_passes(strategy, lora, rules):
    suite = Suite(strategy, ["class"], GPT2, TINY | {"layers": 1, "lora": lora})
    results = {case[0]: suite.result(*case) for case in suite.cases if case[0] in rules}
    assert {rule: result.message for rule, result in results.items() if not result.ok} == {}
    assert [results[rule].outcome for rule in rules] == ["passed"] * len(rules)


@pytest.mark.parametrize("strategy", ["pnn", "den"])
def test_what_cannot_grow_it_says_so_before_anything_runs(table, tmp_path, strategy):
    texts = ("--benchmark", f"split:{table}", "--set", "benchmark.encode=tokens", "--set", "benchmark.experiences=2")
    sizes = [part for name, size in TINY.items() for part in ("--set", f"backbone.{name}={size}")]
    outcome = smoke(tmp_path, strategy, "--scenario", "task", "--backbone", "gpt2", *texts, *sizes)
    assert outcome.code == 2
    assert f"{strategy} " in outcome.err
    assert "the backbone 'gpt2' cannot serve" in outcome.err


def test_a_missing_package_says_which_extra_brings_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"lora needs peft\. Run: pip install 'clarena-bench\[transformers\]'"):
        tiny(lora=2)
    program = (
        "import sys; sys.modules['transformers'] = None; sys.argv = ['clarena', 'describe', 'gpt2'];"
        "from clarena.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    said = " ".join((done.stdout + done.stderr).split())
    assert "needs the package 'transformers', which is not installed. Run: pip install" in said


def test_all_are_described():
    for name in ("gpt2", "hf:MODEL"):
        described = clarena("describe", name, "--json")
        assert described.code == 0
        assert not described.data[0]["mismatches"]
        assert {"lora", "dropout", "weights"} <= {each["name"] for each in described.data[0]["parameters"]}
