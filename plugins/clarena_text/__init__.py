"""Text: published sets of intents as benchmarks, and streams for language models."""

from clarena import hookimpl
from clarena.hookspecs import Register

BENCHMARKS = {
    "clinc150": (
        "intents:Clinc150",
        "CLINC150: 150 intents in 10 domains, one domain after another; downloads 2 MB once",
    ),
    "banking77": ("intents:Banking77", "BANKING77: 77 intents of bank customers, a few at a time; downloads 1 MB once"),
    "five-texts": (
        "datasets:FiveTexts",
        "AG News, Yelp, Amazon, DBpedia and Yahoo Answers, one data set after another; downloads 1.2 GB once",
    ),
    "sentiment-domains": (
        "datasets:SentimentDomains",
        "Reviews of products, places and films, good or bad, one kind after another; downloads 0.9 GB once",
    ),
    "language-stream": (
        "language:LanguageStream",
        "Shakespeare, an encyclopaedia, speeches and Genesis in other languages; downloads 5 MB once",
    ),
    "language:PATHS": (
        "language:OwnTexts",
        "Your own texts, UTF-8 files separated by commas: a language model reads one after another",
    ),
}


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the benchmarks of text."""
    for name, (path, summary) in BENCHMARKS.items():
        register(f"clarena_text.{path}", name=name, summary=summary)
