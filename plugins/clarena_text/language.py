"""Streams of text for language models: one corpus after another, each token predicted from those before it."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from clarena_data.subwords import source_files
from clarena_native.benchmarks.families import Order
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from clarena import (
    IGNORED,
    Benchmark,
    Data,
    DataError,
    RowForm,
    Samples,
    Scenario,
    Stream,
    UsageError,
    family_member,
    fetch,
    readable_name,
    require_file,
    split_by_domain,
    user_path,
)

from .vocabulary import given_subwords, known_subwords, learned_subwords, single_bytes

CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data"
WIKITEXT = (
    "https://raw.githubusercontent.com/pytorch/examples/"
    "77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2"
)
NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora"


class Text(NamedTuple):
    """A domain: its name, the text to learn from, and the text to be tested on."""

    name: str
    train: str
    test: str


class Language(Benchmark):
    """Texts for language models, cut into sequences that do not overlap; the label of a token is the one after it.

    The vocabulary is shared, and so are the outputs. What is left of a text after its last whole sequence makes a
    shorter one, so that every token but the first of each text is predicted exactly once.
    """

    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain",)
    added = frozenset({"tokenizer"})

    def __init__(
        self,
        *,
        tokens: Annotated[
            Literal["bytes", "subwords"],
            Field(description="Bytes of UTF-8, or pieces of words learned from the training text of the first domain."),
        ] = "bytes",
        subwords: Annotated[int, Field(ge=256, description="How many subwords there are, at most.")] = 1024,
        context: Annotated[int, Field(ge=1, description="Tokens in a sequence.")] = 64,
        train_bytes: Annotated[
            int | None, Field(ge=1, description="Bytes of training text of each domain, at most; none takes all.")
        ] = 60_000,
        test_bytes: Annotated[
            int | None, Field(ge=1, description="Bytes of test text of each domain, at most; none takes all.")
        ] = 10_000,
        test_share: Annotated[
            float,
            Field(
                gt=0, lt=1, description="Share of a text, at its end, held out where it has no test text of its own."
            ),
        ] = 0.1,
        order: Annotated[Order, Field(description="Shuffle the domains by the seed, or keep their order.")] = "seed",
        tokenizer: Annotated[
            str | None,
            Field(
                description="Folder or name of a tokenizer of Hugging Face transformers that works on bytes, whose "
                "subwords are taken in place of learned ones, or smollm2 for the one in the extra weights."
            ),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.tokens = tokens
        self.subwords = subwords
        self.context = context
        self.train_bytes = train_bytes
        self.test_bytes = test_bytes
        self.test_share = test_share
        self.order = order
        self.tokenizer = tokenizer
        self._known = None if tokenizer is None else given_subwords(tokenizer)
        self.vocabulary = len(self._known.names) if self._known else 256 if tokens == "bytes" else subwords

    def source_files(self) -> Iterable[Path]:
        """Those of the texts, and the folder of the tokenizer, where that is one."""
        return [*super().source_files(), *source_files(self.tokenizer)]

    def texts(self) -> list[Text]:
        """The domains, in their natural order."""
        raise NotImplementedError

    def data(self) -> Data:
        """Sequences of all domains: x int32 [n, context], y int64 [n, context], -100 where no text is left."""
        texts = [Text(t.name, cut(t.train, self.train_bytes), cut(t.test, self.test_bytes)) for t in self.texts()]
        tokens = self._known or (
            single_bytes() if self.tokens == "bytes" else learned_subwords(texts[0].train, self.subwords)
        )
        train = [self._sequences(text.name, "training", tokens.encode(text.train)) for text in texts]
        test = [self._sequences(text.name, "test", tokens.encode(text.test)) for text in texts]
        return Data(
            *_joined(train),
            *_joined(test),
            tokens.names,
            domain_train=_domains(train),
            domain_test=_domains(test),
            domain_names=tuple(text.name for text in texts),
            class_bytes=tokens.sizes,
            target="text",
            encoding={"tokenizer": tokens.learned},
        )

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """Each domain is an experience."""
        return split_by_domain(data, scenario, self.order, generator)

    def inputs(self, x: Tensor) -> Tensor:
        """Tokens int64 [n, context]."""
        return x.long()

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New text of a UTF-8 file, in the tokens of training, its end held out and both parts cut as there."""
        name, learned = readable_name(path.name), form.encoding.get("tokenizer", "")
        tokens = known_subwords(learned) if learned else single_bytes()
        whole = self.held_out(name, read_text(path))
        parts = {"train": cut(whole.train, self.train_bytes), "test": cut(whole.test, self.test_bytes)}
        numbers = {part: tokens.encode(text) for part, text in parts.items()}
        found = {part: sequences(tokens, self.context) for part, tokens in numbers.items() if len(tokens) > 1}
        if not found:
            raise DataError(f"{path} is too short: a token and the one after it are the least that can be learned.")
        x, y = _joined(list(found.values()))
        left = len((whole.train + whole.test).encode()) - len("".join(parts.values()).encode())
        note = f"{name}: {left} bytes are left out, beyond benchmark.train_bytes and benchmark.test_bytes."
        return Samples(
            form.rows(x),
            tuple(f"{part} {row + 1}" for part, (rows, _) in found.items() for row in range(len(rows))),
            parts=tuple(part for part, (rows, _) in found.items() for _ in rows),
            notes=(note,) if left else (),
            y=y,
        )

    def held_out(self, name: str, text: str) -> Text:
        """A domain of a text that has no test text of its own: a share at its end."""
        end = len(text) - int(len(text) * self.test_share)
        return Text(name, text[:end], text[end:])

    def _sequences(self, name: str, part: str, tokens: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        if len(tokens) <= self.context:
            raise DataError(
                f"The {part} text of {name} has {len(tokens)} tokens, and a sequence takes {self.context} and the one "
                "after them. Give it more text, or set shorter sequences: --set benchmark.context=N."
            )
        return sequences(tokens, self.context)


def sequences(tokens: NDArray[np.int64], context: int) -> tuple[Tensor, Tensor]:
    """Inputs int32 [n, context] and labels int64 [n, context], the token after each; the end is filled with 0 and -100.

    For tokens a b c d e f and a context of 2: inputs ab cd e0, labels bc de f-, where - is -100.
    """
    rows = -(-(len(tokens) - 1) // context)
    x, y = np.zeros(rows * context, dtype=np.int32), np.full(rows * context, IGNORED, dtype=np.int64)
    x[: len(tokens) - 1], y[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    return torch.from_numpy(x.reshape(rows, context)), torch.from_numpy(y.reshape(rows, context))


def cut(text: str, size: int | None) -> str:
    """The beginning of a text, of at most `size` bytes of UTF-8, no character divided."""
    return text if size is None else text.encode()[:size].decode(errors="ignore")


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _domains(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(x) for x, _ in parts]))


# ---- Own texts ----


class OwnTexts(Language):
    """Your own texts, UTF-8 files separated by commas: a language model reads one after another."""

    name = "language:PATHS"
    paths: ClassVar[tuple[Path, ...]] = ()

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of several text files, separated by commas, each a domain."""
        paths = tuple(user_path(path) for path in argument.split(","))
        if len({path.resolve() for path in paths}) < max(2, len(paths)):
            raise UsageError(f"language:{argument} needs two different files or more: language:PATH,PATH.")
        return family_member(cls, ",".join(readable_name(path.stem) for path in paths), paths=paths)

    def source_files(self) -> Iterable[Path]:
        """The files, and the folder of the tokenizer, where that is one."""
        return [*super().source_files(), *self.paths]

    def texts(self) -> list[Text]:
        """A domain for each file, named after it."""
        return [self.held_out(readable_name(path.name), read_text(path)) for path in self.paths]


def read_text(path: Path) -> str:
    """A file's text; raises `DataError` where there is none, or it is not UTF-8."""
    try:
        text = require_file(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from error
    if not text.strip():
        raise DataError(f"{path} is empty. Give it text to learn from, or leave it out.")
    return text


# ---- Published corpora ----

GENESIS = {
    "english-kjv": "utf-8",
    "finnish": "latin-1",
    "french": "latin-1",
    "german": "latin-1",
    "portuguese": "utf-8",
    "swedish": "cp850",
}
"""The languages of NLTK's Genesis, and how each file is encoded."""

Corpus = Literal[
    "shakespeare",
    "wikitext-2",
    "inaugural",
    "state-union",
    "genesis-english-kjv",
    "genesis-finnish",
    "genesis-french",
    "genesis-german",
    "genesis-portuguese",
    "genesis-swedish",
]


class LanguageStream(Language):
    """Shakespeare, an encyclopaedia, speeches and Genesis in other languages; downloads 5 MB once.

    Tiny Shakespeare; WikiText-2, of which the validation text is learned from and the test text tested on; the
    inaugural and State of the Union addresses of US presidents; and Genesis in six languages, from NLTK. Each in UTF-8,
    whatever its file is in.

    Source: Karpathy 2015 (char-rnn); Merity et al. 2017 (WikiText); Bird et al. 2009 (NLTK).
    """

    name = "language-stream"

    def __init__(
        self,
        *,
        domains: Annotated[
            tuple[Corpus, ...], Field(min_length=2, description="The corpora, in their natural order.")
        ] = ("shakespeare", "wikitext-2", "inaugural", "genesis-german", "genesis-finnish"),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.domains = domains

    def texts(self) -> list[Text]:
        """The corpora that were asked for."""
        if len(set(self.domains)) < len(self.domains):
            raise UsageError(f"A corpus is named twice among the domains {', '.join(self.domains)}. Name each once.")
        return [self._corpus(name) for name in self.domains]

    def _corpus(self, name: str) -> Text:
        if name == "wikitext-2":
            return Text(name, *(_wikitext(part) for part in ("valid", "test")))
        if name == "shakespeare":
            return self.held_out(name, _shakespeare())
        if name.startswith("genesis-"):
            sha256 = "0cac241f88d7999f81a45e26b1764b2d1f3b4d21654aa954e0d5349eb4784cd0"
            language = name.removeprefix("genesis-")
            (content,) = _archive("genesis", sha256, f"genesis/{language}.txt")
            return self.held_out(name, content.decode(GENESIS[language]))
        sha256, folder = {
            "inaugural": ("7c5fb5793e31fbeae12bf1aa0ffda5336468f07cedb50654c6d31ca384e2046b", "inaugural"),
            "state-union": ("366c1dc82b2abf896f42b2ec50ba802a0141a29f75d29ca48a7a243ce5bfbe8d", "state_union"),
        }[name]
        return self.held_out(name, "\n".join(map(_speech, _archive(folder, sha256, ".txt"))))


def end_of(name: Literal["shakespeare", "wikitext-2"], characters: int) -> str:
    """The end of the test text of one of these, on which no `language-stream` trains."""
    text = _shakespeare() if name == "shakespeare" else _wikitext("test")
    return text[-characters:]


def _shakespeare() -> str:
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    return read_text(fetch("lm/tiny_shakespeare/input.txt", f"{CHAR_RNN}/tinyshakespeare/input.txt", sha256))


def _wikitext(part: str) -> str:
    digests = {
        "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    }
    return read_text(fetch(f"lm/wikitext-2/{part}.txt", f"{WIKITEXT}/{part}.txt", digests[part]))


def _archive(name: str, sha256: str, ending: str) -> list[bytes]:
    """The files of one of NLTK's archives whose names end so, in the order of their names."""
    with zipfile.ZipFile(fetch(f"lm/nltk/{name}.zip", f"{NLTK}/{name}.zip", sha256)) as archive:
        return [archive.read(member) for member in sorted(archive.namelist()) if member.endswith(ending)]


def _speech(content: bytes) -> str:
    """Most speeches are UTF-8; the quotation marks of a few were written in Big5."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("big5")
