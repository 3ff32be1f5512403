"""Short texts and what their author wants: CLINC150 and BANKING77, from the files as published."""

import csv
import json
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
from clarena_data.texts import Words, encode
from clarena_native.benchmarks.families import Experiences, FirstExperience, Order, SplitClasses
from pydantic import Field

from clarena import (
    ClassOrder,
    ClassSizes,
    Data,
    Scenario,
    Stream,
    UsageError,
    fetch,
    split_by_class,
    split_by_groups,
)

CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data"
BANKING = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/"
    "57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data"
)


class Clinc150(Words):
    """CLINC150: 150 intents in 10 domains, one domain after another; downloads 2 MB once.

    100 texts of each intent to learn from and 30 to be tested on; those out of scope are left out. Where the number of
    experiences is set, the intents are dealt out without regard to domains.

    Source: Larson et al. 2019, An evaluation dataset for intent classification and out-of-scope prediction.
    """

    name = "clinc150"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task", "domain")
    added = frozenset({"first_experience", "tokenizer"})

    def __init__(
        self,
        *,
        experiences: Annotated[
            ClassSizes | None,
            Field(description="How many experiences share the intents, or how many each has; none: one per domain."),
        ] = None,
        first_experience: FirstExperience = None,
        class_order: Annotated[
            ClassOrder,
            Field(
                description="Shuffle the domains (or intents) by the seed, or keep their natural order; intents, where "
                "the number of experiences is set, also in an order for every seed, as in any benchmark that splits."
            ),
        ] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiences = experiences
        self.first_experience = first_experience
        self.class_order = class_order

    def data(self) -> Data:
        """Texts as tokens; the classes are numbered domain by domain."""
        sha256 = "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0"
        parts = json.loads(fetch("text/clinc150/data_full.json", f"{CLINC}/data_full.json", sha256).read_bytes())
        rows = [(text, intent, part) for part in ("train", "test") for text, intent in parts[part]]
        return encode(rows, self.tokens, 0.2, self.name)

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """A domain for each experience, or the intents dealt out as evenly as they go."""
        if self.experiences is not None:
            return split_by_class(
                data, scenario, self.experiences, self.class_order, generator, first=self.first_experience
            )
        if self.first_experience is not None or self.class_order not in get_args(Order):
            raise UsageError(
                "clinc150 takes one domain after another, by the seed or in their natural order. Set "
                "benchmark.experiences as well, and its intents are split: --set benchmark.experiences=10."
            )
        sha256 = "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a"
        domains = json.loads(fetch("text/clinc150/domains.json", f"{CLINC}/domains.json", sha256).read_bytes())
        number = {name: source for source, name in enumerate(data.class_names)}
        groups = [np.array([number[intent] for intent in domains[domain]]) for domain in sorted(domains)]
        if self.class_order == "seed":
            groups = [generator.permutation(groups[i]) for i in generator.permutation(len(groups))]
        return split_by_groups(data, scenario, groups)


class Banking77(Words, SplitClasses):
    """BANKING77: 77 intents of bank customers, a few at a time; downloads 1 MB once.

    Source: Casanueva et al. 2020, Efficient intent detection with dual sentence encoders.
    """

    name = "banking77"
    added = frozenset({"tokenizer"})

    def __init__(
        self,
        *,
        experiences: Experiences = 7,
        **options: Any,
    ) -> None:
        super().__init__(experiences=experiences, **options)

    def data(self) -> Data:
        """Texts as tokens."""
        digests = {
            "train": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
            "test": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        }
        rows = []
        for part, sha256 in digests.items():
            file = fetch(f"text/banking77/{part}.csv", f"{BANKING}/{part}.csv", sha256)
            with file.open(encoding="utf-8", newline="") as lines:
                rows += [(row["text"], row["category"], part) for row in csv.DictReader(lines)]
        return encode(rows, self.tokens, 0.2, self.name)
