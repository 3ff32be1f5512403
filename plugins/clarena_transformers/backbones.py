"""Language models as backbones: `gpt2`, and any other of Hugging Face transformers as `hf:NAME` or `hf:PATH`."""

import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from clarena_native.backbones.transformers import PADDING
from clarena_native.torchvision_cpu import import_torchvision
from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, Tokens, UsageError, family_member, user_path

from . import face, hub

if find_spec("torchvision") is not None:  # transformers imports it where it is there
    import_torchvision()

import transformers
from transformers.pytorch_utils import Conv1D

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

WEIGHTS = "--set backbone.weights"


class TextNetwork(Backbone):
    """An encoder or decoder of text: features of a text, or of every token where every token has a label.

    A decoder's features of a text are those of its last token, an encoder's the mean over its tokens; tokens 0 at the
    end are none.

    With `lora` the network stands still and low-rank adapters on all its linear layers learn in its place. What stands
    still are buffers: they count in the bytes of the state, and not among the parameters.

    Source: Hu et al. 2022, LoRA: Low-rank adaptation of large language models; adapters by peft.
    """

    takes_tokens = True

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a unit in training.")] = 0.0,
        lora: Annotated[int, Field(ge=0, description="Rank of the adapters; 0 trains the network itself.")] = 0,
        lora_alpha: Annotated[
            float, Field(gt=0, description="What adapters add is multiplied by this and divided by their rank.")
        ] = 16.0,
        lora_dropout: Annotated[
            float, Field(ge=0, lt=1, description="Probability of dropping an input of an adapter in training.")
        ] = 0.0,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.per_token = per_token
        self.dropout = dropout
        self.lora = lora
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        (length,) = input_shape
        network = self.build(vocabulary, length)
        places = getattr(network.config, "max_position_embeddings", length)
        if length > places:
            raise UsageError(
                f"{self.name} has places for {places} tokens, but texts have {length}. Cut them (--set "
                f"benchmark.length={places}, where the benchmark has it), or take a model with more."
            )
        self.features = network.config.hidden_size
        _use_linear(network)
        self.network = _with_adapters(network, lora, lora_alpha, lora_dropout) if lora else network
        self.causal = self._is_causal(length)
        self.token_width = self.features if face.blocks(self.network) else None
        if per_token and not self.causal:
            raise UsageError(
                f"{self.name} sees the tokens that it would have to predict. Where every token has a label, choose a "
                "decoder, such as gpt2."
            )

    def build(self, vocabulary: int, length: int) -> Any:
        """The network of transformers, for so many tokens and texts of that length."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, features], or [batch, time, features] where every token has a label; x [batch, time]."""
        kept = self._kept(x)
        mask = {} if self.causal else {"attention_mask": kept.long()}
        return self.pool(self._hidden(x, **mask), Tokens(x, kept))

    def stages(self) -> dict[str, nn.Module]:
        """The network's blocks."""
        found = {f"network.{name}": block for name, block in face.blocks(self.network).items()}
        return found or super().stages()

    def embed(self, x: Tensor) -> Tokens:
        """What the first block is given [batch, time, width]: tokens with their positions, where those are added."""
        kept = self._kept(x)
        mask = {} if self.causal else {"attention_mask": kept.long()}
        return Tokens(face.embed(self.network, self._first, input_ids=x, **mask), kept)

    def process(self, tokens: Tokens) -> Tensor:
        """What all blocks make of the tokens [batch, tokens, width]; with dropout, by other draws than in `forward`."""
        return face.process(self.network, self._first, tokens, not self.causal)

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """The last token of a text (decoders), or the mean over it; all of them where each has a label."""
        outputs = outputs[:, tokens.prompts :]
        if self.per_token:
            return outputs
        assert tokens.kept is not None
        kept = tokens.kept[:, tokens.prompts :]
        if self.causal:  # what comes after the last token changes nothing before
            place = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
            last = place.where(kept, 0).amax(1)
            return outputs.gather(1, last[:, None, None].expand(-1, 1, self.features))[:, 0]
        return (outputs * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)

    @property
    def _first(self) -> nn.Module:
        return next(iter(self.stages().values()))

    @staticmethod
    def _kept(x: Tensor) -> Tensor:
        """Which tokens count [batch, time]; a text without words still has one."""
        return (x != PADDING) | (torch.arange(x.shape[1], device=x.device) == 0)

    def _hidden(self, x: Tensor, **options: Any) -> Tensor:
        return self.network(input_ids=x, **options).last_hidden_state  # type: ignore[no-any-return]

    def _is_causal(self, length: int) -> bool:
        """Whether the first token is blind to the last; raises `UsageError` where tokens are not all it asks for."""
        one, other = torch.ones(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.long)
        other[0, -1] = 0
        self.eval()
        try:
            with torch.no_grad():
                same = torch.equal(self._hidden(one)[:, 0], self._hidden(other)[:, 0])
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UsageError(f"{self.name} is no plain encoder or decoder of text ({reason}).") from error
        self.train()
        return same or length == 1


class GPT2(TextNetwork):
    """GPT-2 of Hugging Face transformers, as classifier or language model, random or pre-trained, with LoRA or not.

    Source: Radford et al. 2019, Language models are unsupervised multitask learners.
    """

    name = "gpt2"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        weights: Annotated[
            str,
            Field(
                description="Where the first weights come from: none (random), or a pre-trained GPT-2 by its folder or "
                "its name on the Hugging Face hub; its tokenizer must be the benchmark's."
            ),
        ] = "none",
        layers: Annotated[
            int | None, Field(ge=1, description="Layers; none takes the pre-trained model's, or 12.")
        ] = None,
        heads: Annotated[
            int | None,
            Field(ge=1, description="Attention heads of each layer; none takes the pre-trained model's, or 12."),
        ] = None,
        width: Annotated[
            int | None, Field(ge=1, description="Features of each token; none takes the pre-trained model's, or 768.")
        ] = None,
        context: Annotated[
            int | None,
            Field(
                ge=1, description="Tokens it has places for; none takes the pre-trained model's, or the texts' length."
            ),
        ] = None,
        **options: Any,
    ) -> None:
        self.weights = weights
        self.layers = layers
        self.heads = heads
        self.width = width
        self.context = context
        super().__init__(input_shape, vocabulary, per_token, **options)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the pre-trained model's files."""
        weights = options["weights"]
        return None if weights == "none" else hub.fingerprint(hub.model_folder(weights, WEIGHTS), True)

    def build(self, vocabulary: int, length: int) -> Any:
        """The network, random or from its files."""
        sizes = {"n_layer": self.layers, "n_head": self.heads, "n_embd": self.width, "n_positions": self.context}
        given = {name: size for name, size in sizes.items() if size is not None}
        if self.weights != "none":
            folder = hub.model_folder(self.weights, WEIGHTS)
            config = _configuration(folder, WEIGHTS)
            if config.model_type != "gpt2":
                raise UsageError(f"{WEIGHTS}: {folder} holds a {config.model_type}. Say: --backbone hf:{folder}")
            for name, size in given.items():
                if getattr(config, name) != size:
                    raise UsageError(
                        f"{WEIGHTS}: the model in {folder} has {name} {getattr(config, name)}, not {size}."
                    )
            return _pretrained(folder, config, vocabulary, self.dropout, WEIGHTS)
        config = transformers.GPT2Config(**{"n_positions": length} | given)
        if config.n_embd % config.n_head:
            raise UsageError(
                f"gpt2 cannot divide a width of {config.n_embd} among {config.n_head} heads. Change one: "
                "--set backbone.heads=N."
            )
        return _random(config, vocabulary, self.dropout)


class HubModel(TextNetwork):
    """Any encoder or decoder of text of Hugging Face transformers, by the name or path of its files.

    `hf:distilbert-base-uncased`, or `hf:PATH` for a folder with `config.json` and `model.safetensors`.
    """

    name = "hf:MODEL"
    source: ClassVar[str] = ""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        weights: Annotated[
            Literal["default", "none"],
            Field(
                description="Start from the model's own weights, whose tokenizer must be the benchmark's; or random."
            ),
        ] = "default",
        **options: Any,
    ) -> None:
        self.weights = weights
        super().__init__(input_shape, vocabulary, per_token, **options)

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The backbone of the model of this name on the hub, or in this folder."""
        folder = user_path(argument)
        return family_member(cls, folder.name if folder.is_dir() else argument, source=argument)

    @classmethod
    def folder(cls) -> Path:
        """The folder of the model's files; raises `UsageError` where they are not to be had."""
        return hub.model_folder(cls.source, cls.name)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the model's configuration and, unless they are random, its weights."""
        return hub.fingerprint(cls.folder(), options["weights"] != "none")

    def build(self, vocabulary: int, length: int) -> Any:
        """The network that the files describe."""
        folder = self.folder()
        config = _configuration(folder, self.name)
        if self.weights == "none":
            return _random(config, vocabulary, self.dropout)
        return _pretrained(folder, config, vocabulary, self.dropout, self.name)


def _configuration(folder: Path, option: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"{option}: {folder / hub.CONFIGURATION} describes no model of transformers ({reason})."
        ) from error


def _set(config: Any, dropout: float) -> None:
    """Dropout everywhere as it is wanted, and nothing kept from call to call."""
    config.use_cache = False
    for name, value in vars(config).items():
        if name.endswith(("_pdrop", "dropout", "dropout_prob")) and isinstance(value, float | int):
            setattr(config, name, dropout)


def _random(config: Any, vocabulary: int, dropout: float) -> Any:
    _set(config, dropout)
    config.vocab_size = vocabulary
    config.pad_token_id = None
    return _without_pooler(transformers.AutoModel.from_config(config))


def _pretrained(folder: Path, config: Any, vocabulary: int, dropout: float, option: str) -> Any:
    """The network in a folder, whole.

    Raises:
        UsageError: for another number of tokens, and files that are damaged or of another model.
    """
    if config.vocab_size != vocabulary:
        raise UsageError(
            f"{option}: the model in {folder} knows {config.vocab_size} tokens, the benchmark has {vocabulary}. They "
            "must be the same ones: have the benchmark use the model's own tokenizer, or start from random weights."
        )
    _set(config, dropout)
    try:
        network, found = transformers.AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # a damaged file fails in any way whatever
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{option}: the weights in {folder} cannot be read; are they whole? ({reason})") from error
    network = _without_pooler(network)
    lacking = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if lacking:
        raise UsageError(f"{option}: the weights in {folder} are of another model: they lack {', '.join(lacking[:3])}.")
    return network


def _without_pooler(network: Any) -> Any:
    """What some encoders end with is not part of their features."""
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def _use_linear(network: nn.Module) -> None:
    """Replace GPT-2's Conv1D, a linear layer stored transposed, by what every strategy knows."""
    for part in network.modules():
        for name, layer in part.named_children():
            if isinstance(layer, Conv1D):
                linear = nn.utils.skip_init(nn.Linear, layer.nx, layer.nf)
                linear.weight = nn.Parameter(layer.weight.detach().T.contiguous())
                linear.bias = layer.bias
                setattr(part, name, linear)


def _with_adapters(network: Any, rank: int, alpha: float, dropout: float) -> nn.Module:
    """The network with adapters on its linear layers, and everything else in it turned into buffers.

    As buffers the frozen weights are saved and metered, and no strategy trains, penalises or thaws them.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UsageError(f"lora needs {error.name}. Run: pip install 'clarena-bench[transformers]'") from error
    wanted = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = peft.get_peft_model(network, wanted)
    for part in adapted.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())
    return adapted
