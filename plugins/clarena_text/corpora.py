"""Published sets of labelled texts: from the archives of their authors, or from the files of O-LoRA's benchmark.

An archive is downloaded once, with its SHA-256, where it is not unpacked already (a folder of its name beside it is
taken as it is); all are read as streams, no further than needed.
"""

import csv
import gzip
import io
import json
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from clarena_data.tables import wide_fields

from clarena import DataError, data_root, fetch

Files = Literal["published", "olora"]
Part = Literal["train", "test"]
Labelled = tuple[int, str]
"""The number of a class, from 0, and a text."""

PARTS: tuple[Part, Part] = ("train", "test")
MIRROR = "https://s3.amazonaws.com/fast-ai-nlp"
OLORA = "https://github.com/cmnfriend/O-LoRA (its folder CL_Benchmark)"
HEADING = re.compile(r"^(?:Title|Text):\s*", re.MULTILINE)
"""What O-LoRA writes before the parts of a text."""


@dataclass(frozen=True)
class Corpus:
    """A set of labelled texts.

    Attributes:
        title: what messages call it.
        classes: their names in O-LoRA's files, in the order of their numbers in the archive.
        olora: its folder in O-LoRA's benchmark.
        archive: the file at `url`, under `text/` of the data root.
        url: where it is published.
        sha256: of the archive.
    """

    title: str
    classes: tuple[str, ...]
    olora: str
    archive: str
    url: str
    sha256: str

    def parts(self, files: Files) -> list[Part]:
        """Which of train and test are there; of published archives, both always."""
        return [part for part in PARTS if files == "published" or self._olora_file(part) is not None]

    def texts(self, part: Part, files: Files) -> Iterator[Labelled]:
        """The texts of one part, in the order of the file; those without a letter are there, too.

        Raises:
            DataError: when the file is missing, damaged, not UTF-8 or of another layout, with its name and the line.
        """
        return self._published(part) if files == "published" else self._olora(part)

    def _published(self, part: Part) -> Iterator[Labelled]:
        raise NotImplementedError

    def _place(self) -> Path:
        """The unpacked folder where there is one, the archive otherwise."""
        folder = self._unpacked()
        return folder if folder.is_dir() else fetch(f"text/{self.archive}", self.url, self.sha256)

    def _unpacked(self) -> Path:
        return data_root() / "text" / self.archive.split(".")[0]

    def places(self, files: Files) -> list[Path]:
        """What is read as it is, its digest unknown, where it is there: an unpacked folder, or O-LoRA's files."""
        if files == "published":
            return [self._unpacked()] if self._unpacked().is_dir() else []
        return [file for part in PARTS if (file := self._olora_file(part)) is not None]

    def _olora_file(self, part: Part) -> Path | None:
        folder = data_root() / "text" / "olora_cl_benchmark" / self.olora
        return next((file for end in ("", ".gz") if (file := folder / f"{part}.json{end}").is_file()), None)

    def _olora(self, part: Part) -> Iterator[Labelled]:
        file = self._olora_file(part)
        if file is None:
            raise DataError(f"{self.title} has no {part}.json in {self.olora}.")
        with readable(file):
            content = file.read_bytes()
            rows = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
        number = {name: index for index, name in enumerate(self.classes)}
        if not isinstance(rows, list):
            raise DataError(f"{file} must be a list of objects with a label and a sentence.")
        for place, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("label", "sentence")):
                raise DataError(f"{file}, entry {place} has no label or no sentence that is text: {str(row)[:60]}.")
            if row["label"] not in number:
                known = ", ".join(self.classes)
                raise DataError(f"{file}, entry {place} has the label {row['label']!r}; {self.title} knows: {known}.")
            yield number[row["label"]], HEADING.sub("", row["sentence"])


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what goes wrong in reading `file` into one message."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}. Take the file as it is published.") from error
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}. It is damaged or cut off; take a whole copy.") from error


@contextmanager
def opened(place: Path, name: str) -> Iterator[IO[str]]:
    """A file of text within a folder or an archive.

    Raises:
        DataError: when it has no such file.
    """
    with readable(place), ExitStack() as stack:
        found: IO[bytes] | None
        if place.is_dir():
            found = (place / name).open("rb") if (place / name).is_file() else None
        elif place.suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(place))
            found = next((archive.open(entry) for entry in archive.namelist() if entry.endswith(f"/{name}")), None)
        else:
            bundle = stack.enter_context(tarfile.open(place, "r:gz"))
            found = next((bundle.extractfile(entry) for entry in bundle if entry.name.endswith(f"/{name}")), None)
        if found is None:
            raise DataError(f"{place} holds no {name}. Take it as it is published.")
        yield stack.enter_context(io.TextIOWrapper(found, encoding="utf-8", newline=""))


class Csv(Corpus):
    """`train.csv` and `test.csv`: a class from 1, then one or more parts of the text (Zhang et al. 2015)."""

    def _published(self, part: Part) -> Iterator[Labelled]:
        place = self._place()
        with opened(place, f"{part}.csv") as lines, wide_fields(sys.maxsize):
            reader = csv.reader(lines, strict=True)
            for row in reader:
                where = f"{place}, {part}.csv, line {reader.line_num}"
                if len(row) < 2:
                    raise DataError(
                        f"{where} has {len(row)} fields. Each line has a class and a text; remove the line."
                    )
                if not (row[0].isdecimal() and 1 <= int(row[0]) <= len(self.classes)):
                    raise DataError(
                        f"{where}: the class must be a number from 1 to {len(self.classes)}, not {row[0]!r}."
                    )
                yield int(row[0]) - 1, " ".join(row[1:]).replace("\\n", " ").replace('\\"', '"')


class Reviews(Corpus):
    """A file for each text, in `train/neg`, `train/pos`, `test/neg` and `test/pos` (Maas et al. 2011)."""

    def _published(self, part: Part) -> Iterator[Labelled]:
        place = self._place()
        kinds = {f"{part}/neg": 0, f"{part}/pos": 1}
        with readable(place):
            if place.is_dir():
                for folder, label in kinds.items():
                    for file in sorted((place / folder).glob("*.txt")):
                        with readable(file):
                            text = file.read_text(encoding="utf-8")
                        yield label, text
                return
            with tarfile.open(place, "r:gz") as bundle:
                for entry in bundle:
                    folder = "/".join(entry.name.split("/")[-3:-1])
                    content = bundle.extractfile(entry) if folder in kinds else None
                    if content is not None and entry.name.endswith(".txt"):
                        yield kinds[folder], content.read().decode("utf-8")


class Glue(Corpus):
    """`train.tsv` and `dev.tsv`, which stands for the test set: a text and 0 or 1 (Wang et al. 2019, GLUE)."""

    def _published(self, part: Part) -> Iterator[Labelled]:
        place, name = self._place(), "train.tsv" if part == "train" else "dev.tsv"
        with opened(place, name) as lines:
            for number, line in enumerate(lines, 1):
                text, tab, label = line.rstrip("\r\n").rpartition("\t")
                if number > 1 and (not tab or label not in ("0", "1")):
                    raise DataError(f"{place}, {name}, line {number} must be a text, a tab, and 0 or 1.")
                if number > 1:
                    yield int(label), text


STARS = ("very negative", "negative", "neutral", "positive", "very positive")

# The SHA-256 of the archives on fast.ai's public mirror are those that FastAI.jl publishes for them; those of IMDB and
# SST-2 are the ones that Hugging Face's and other loaders check.
AG_NEWS = Csv(
    "AG News",
    ("World", "Sports", "Business", "Science or Technology"),
    "TC/agnews",
    "ag_news_csv.tgz",
    f"{MIRROR}/ag_news_csv.tgz",
    "9a8c300eabb45750237fcc669f61cb8a3448f3ef6f6098e1ce340e444f6872be",
)
YELP = Csv(
    "Yelp",
    STARS,
    "SC/yelp",
    "yelp_review_full_csv.tgz",
    f"{MIRROR}/yelp_review_full_csv.tgz",
    "56006b0a17a370f1e366504b1f2c3e3754e4a3dda17d3e718a885c552869a559",
)
AMAZON = Csv(
    "Amazon",
    STARS,
    "SC/amazon",
    "amazon_review_full_csv.tgz",
    f"{MIRROR}/amazon_review_full_csv.tgz",
    "4af62eeee139d0142e0747340b68646d23483d9475c33ea0641ee9175b423443",
)
DBPEDIA = Csv(
    "DBpedia",
    (
        "Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation",
        "Building", "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work",
    ),
    "TC/dbpedia",
    "dbpedia_csv.tgz",
    f"{MIRROR}/dbpedia_csv.tgz",
    "42db5221ddedddb673a4cabcc5f3a7d869714c878bcfe4ba94b29d14aa38e417",
)  # fmt: skip
YAHOO = Csv(
    "Yahoo",
    (
        "Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet",
        "Sports", "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government",
    ),
    "TC/yahoo",
    "yahoo_answers_csv.tgz",
    f"{MIRROR}/yahoo_answers_csv.tgz",
    "2d4277855faf8b35259009425fa8f7fe1888b5644b47165508942d000f4c96ae",
)  # fmt: skip
IMDB = Reviews(
    "IMDB",
    ("Bad", "Good"),
    "SC/IMDB",
    "aclImdb.tar.gz",
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
)
SST2 = Glue(
    "SST-2",
    ("Bad", "Good"),
    "SC/SST-2",
    "SST-2.zip",
    "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
    "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
)
