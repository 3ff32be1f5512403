"""Streams whose experiences are whole data sets of text: five sets of topics and reviews, and sentiment by domain."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from clarena_data.texts import Words
from clarena_native.benchmarks.families import Order
from pydantic import Field

from clarena import ClarenaWarning, Data, DataError, Scenario, Split, Stream, UsageError, split_by_domain

from .corpora import AG_NEWS, AMAZON, DBPEDIA, IMDB, OLORA, PARTS, SST2, STARS, YAHOO, YELP, Corpus, Files, Labelled

Labels = tuple[str | None, ...]
"""What each class of a corpus is called in a benchmark; None leaves its texts out."""

Row = tuple[str, str, bool]
"""Class, text, and whether it is for testing."""


class Corpora(Words):
    """Several data sets, equally many samples of each, and of each data set equally many of each class.

    Attributes:
        sources: the data sets by name, in their natural order, and what their classes are called.
    """

    sources: ClassVar[Mapping[str, tuple[Corpus, Labels]]]

    def __init__(
        self,
        *,
        train: Annotated[int, Field(ge=1, description="Training samples of each data set.")],
        test: Annotated[int, Field(ge=1, description="Test samples of each data set.")],
        datasets: Annotated[
            tuple[str, ...] | None, Field(description="Names of the data sets to take; none takes all.")
        ] = None,
        files: Annotated[
            Files,
            Field(
                description="Read the published archives, downloaded where they are missing, or the samples of them "
                "in O-LoRA's benchmark, under text/olora_cl_benchmark of the data folder."
            ),
        ] = "published",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.train = train
        self.test = test
        self.datasets = datasets
        self.files = files
        unknown = [name for name in datasets or () if name not in self.sources]
        if unknown or datasets == ():
            known = ", ".join(self.sources)
            raise UsageError(f"{self.name} has no data set {', '.join(unknown) or '(none)'}. Choose from: {known}.")

    @property
    def chosen(self) -> list[str]:
        """The names of the data sets taken, in their natural order."""
        return [name for name in self.sources if self.datasets is None or name in self.datasets]

    def source_files(self) -> Iterable[Path]:
        """What is read of the data sets where no digest is known, and the folder of a tokenizer."""
        return [
            *super().source_files(),
            *(place for name in self.chosen for place in self.sources[name][0].places(self.files)),
        ]

    def data(self) -> Data:
        """The texts as tokens; each data set is a domain.

        Raises:
            DataError: when a data set is missing, damaged, or has too few texts of a class.
        """
        missing = [name for name in self.chosen if not self.sources[name][0].parts(self.files)]
        if missing:
            kept = ",".join(name for name in self.chosen if name not in missing)
            raise DataError(
                f"{self.name} finds no files of {', '.join(self.sources[name][0].title for name in missing)}. Copy "
                + " and ".join(self.sources[name][0].olora for name in missing)
                + f" of {OLORA} to text/olora_cl_benchmark in the data folder"
                + (f", or leave them out: --set benchmark.datasets={kept}" if kept else "")
                + ", or take --set benchmark.files=published."
            )
        names = tuple(dict.fromkeys(label for name in self.chosen for label in self.sources[name][1] if label))
        rows: list[Row] = []
        domains: list[int] = []
        for number, name in enumerate(self.chosen):
            rows += select(*self.sources[name], self.files, self.train, self.test)
            domains += [number] * (len(rows) - len(domains))
        tokens = self.tokens([text for _, text, _ in rows])
        source = {name: number for number, name in enumerate(names)}
        y = torch.tensor([source[label] for label, *_ in rows])
        domain = torch.tensor(domains)
        out = torch.tensor([testing for *_, testing in rows])
        titles = tuple(self.sources[name][0].title for name in self.chosen)
        return Data(tokens[~out], y[~out], tokens[out], y[out], names, domain[~out], domain[out], titles)


def select(corpus: Corpus, labels: Labels, files: Files, train: int, test: int) -> Iterator[Row]:
    """The first texts of each class, as many as go into `train` and `test` samples with classes of equal size.

    Where only one of the two files is there, its first texts are for training and the next ones for testing.

    Raises:
        DataError: as `Corpus.texts`, and when a class has too few texts.
    """
    names = list(dict.fromkeys(label for label in labels if label))
    sizes = {part: dict(zip(names, shares(size, len(names)))) for part, size in zip(PARTS, (train, test))}
    there = corpus.parts(files)
    if len(there) == 2:
        for part in PARTS:
            for label, text in take(corpus, labels, corpus.texts(part, files), sizes[part], part):
                yield label, text, part == "test"
        return
    warnings.warn(
        f"{corpus.title} has no {'test' if there == ['train'] else 'training'} file: its {there[0]} file is divided.",
        ClarenaWarning,
        stacklevel=2,
    )
    both = {name: sizes["train"][name] + sizes["test"][name] for name in names}
    for label, text in take(corpus, labels, corpus.texts(there[0], files), both, there[0]):
        sizes["train"][label] -= 1
        yield label, text, sizes["train"][label] < 0


def take(
    corpus: Corpus, labels: Labels, texts: Iterable[Labelled], sizes: Mapping[str, int], part: str
) -> Iterator[tuple[str, str]]:
    """The first texts of each class, as many as `sizes` says; texts of spaces alone are left out, with a warning."""
    left, blank = dict(sizes), 0
    for number, text in texts:
        label = labels[number]
        if label is None or not left[label]:
            continue
        if not text.strip():
            blank += 1
            continue
        left[label] -= 1
        yield label, text
        if not any(left.values()):
            break
    if blank:
        warnings.warn(f"{blank} empty texts of {corpus.title} are left out.", ClarenaWarning, stacklevel=2)
    for label, short in left.items():
        if short:
            raise DataError(
                f"{corpus.title} has {sizes[label] - short} texts of the class {label!r} in its {part} file, and "
                f"{sizes[label]} are asked for. Take a whole copy, or fewer samples: --set benchmark.train=N, "
                "--set benchmark.test=N."
            )


def shares(total: int, parts: int) -> list[int]:
    """`total` in whole parts as equal as they go; the first ones get the remainder."""
    return [total // parts + (part < total % parts) for part in range(parts)]


FIVE_ORDERS: Mapping[int, tuple[str, ...]] = {
    1: ("yelp", "agnews", "dbpedia", "amazon", "yahoo"),
    2: ("dbpedia", "yahoo", "agnews", "amazon", "yelp"),
    3: ("yelp", "yahoo", "amazon", "dbpedia", "agnews"),
    4: ("agnews", "yelp", "amazon", "yahoo", "dbpedia"),
}
"""The orders (i) to (iv) of de Masson d'Autume et al. 2019."""


def named(corpus: Corpus) -> tuple[Corpus, Labels]:
    """A corpus whose classes are its own."""
    return corpus, tuple(f"{corpus.title}: {name}" for name in corpus.classes)


class FiveTexts(Corpora):
    """AG News, Yelp, Amazon, DBpedia and Yahoo Answers, one data set after another; downloads 1.2 GB once.

    33 classes: Yelp and Amazon share their five ratings, so the second of the two brings no new class. 115,000
    training and 7,600 test samples of each data set, as published; so many take 60 MB of memory for an experience as
    tokens, and 2 GB as bags of 4,096 words. Where this differs from the publication:

    1. The published samples were drawn at random; here they are the first of each class, equally many of each.
    2. A text is the title and what follows it, cut to the first `length` words.

    Source: de Masson d'Autume et al. 2019, Episodic memory in lifelong language learning; the data sets of Zhang et
    al. 2015, Character-level convolutional networks for text classification.
    """

    name = "five-texts"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task")
    sources = {
        "agnews": named(AG_NEWS),
        "yelp": (YELP, tuple(f"rating: {name}" for name in STARS)),
        "amazon": (AMAZON, tuple(f"rating: {name}" for name in STARS)),
        "dbpedia": named(DBPEDIA),
        "yahoo": named(YAHOO),
    }

    def __init__(
        self,
        *,
        order: Annotated[
            Literal[1, 2, 3, 4, "seed"],
            Field(description="One of the four published orders, or shuffle the data sets by the seed."),
        ] = "seed",
        train: Annotated[int, Field(ge=1, description="Training samples of each data set.")] = 115_000,
        test: Annotated[int, Field(ge=1, description="Test samples of each data set.")] = 7_600,
        **options: Any,
    ) -> None:
        super().__init__(train=train, test=test, **options)
        self.order = order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """A data set for each experience; a class that appears again keeps its label."""
        chosen = self.chosen
        if self.order == "seed":
            domains = generator.permutation(len(chosen)).tolist()
        else:
            domains = [chosen.index(name) for name in FIVE_ORDERS[self.order] if name in chosen]
        return split_by_dataset(data, domains)


def split_by_dataset(data: Data, domains: Sequence[int]) -> Stream:
    """A domain of the data for each experience, its classes numbered in order of first appearance in the stream."""
    if data.domain_train is None or data.domain_test is None:
        raise DataError("The data does not say which domain each sample comes from.")
    rows = [
        [(part == domain).nonzero().flatten() for part in (data.domain_train, data.domain_test)] for domain in domains
    ]
    label: dict[int, int] = {}
    for train, _ in rows:
        for source in data.y_train[train].unique().tolist():
            label.setdefault(source, len(label))
    table = torch.tensor([label.get(source, -1) for source in range(data.classes)])
    splits = tuple(
        Split(train, table[data.y_train[train]], test, table[data.y_test[test]], domain=data.domain_names[domain])
        for domain, (train, test) in zip(domains, rows)
    )
    return Stream(splits, tuple(data.class_names[source] for source in label))


class SentimentDomains(Corpora):
    """Reviews of products, places and films, good or bad, one kind after another; downloads 0.9 GB once.

    Ratings of one and two stars (Amazon, Yelp) are negative, four and five positive, three left out, as in Zhang et
    al. 2015. The films are those of IMDB (Maas et al. 2011) and of SST-2 (Socher et al. 2013, from GLUE, whose
    development set is the test set here).
    """

    name = "sentiment-domains"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")
    sources = {
        "amazon": (AMAZON, ("negative", "negative", None, "positive", "positive")),
        "yelp": (YELP, ("negative", "negative", None, "positive", "positive")),
        "imdb": (IMDB, ("negative", "positive")),
        "sst2": (SST2, ("negative", "positive")),
    }

    def __init__(
        self,
        *,
        order: Annotated[Order, Field(description="Shuffle the domains by the seed, or keep their order.")] = "seed",
        train: Annotated[int, Field(ge=1, description="Training samples of each domain.")] = 20_000,
        test: Annotated[int, Field(ge=1, description="Test samples of each domain.")] = 800,
        **options: Any,
    ) -> None:
        super().__init__(train=train, test=test, **options)
        self.order = order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """A domain for each experience."""
        return split_by_domain(data, scenario, self.order, generator)
