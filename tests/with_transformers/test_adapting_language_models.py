"""Low-rank terms of GPT-2, whose weights make queries, keys and values at once, of BERT, and of a Llama, whose keys and
values are narrower than its queries."""

import pytest
from adapting import ADAPTING, adapts
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs

import_torchvision()  # which transformers imports
needs("transformers", "peft")

import transformers  # noqa: E402
from clarena_transformers.backbones import GPT2, TextNetwork  # noqa: E402

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24}


class Made(TextNetwork):
    """A network of a configuration, with random weights."""

    name = "hf:made"
    config: transformers.PretrainedConfig

    def build(self, vocabulary: int, length: int):
        self.config.vocab_size, self.config.use_cache = vocabulary, False
        network = transformers.AutoModel.from_config(self.config)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None
        return network


class Bert(Made):
    config = transformers.BertConfig(**SIZES)


class Llama(Made):
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)


@pytest.mark.parametrize("strategy", ADAPTING, ids=lambda cls: cls.name)
@pytest.mark.parametrize(
    ("backbone", "options"), [(GPT2, {"layers": 2, "heads": 2, "width": 12}), (Bert, {}), (Llama, {})]
)
def test_a_strategy_of_low_rank_terms_works_on_it(strategy, backbone, options):
    adapts(strategy, backbone=backbone, options=options, benchmark_options={"levels": 9})
