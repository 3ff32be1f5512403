"""Your own data as benchmarks: folders of images, arrays, and tables of texts or numbers, without writing a plugin."""

from clarena import hookimpl
from clarena.hookspecs import Register

BENCHMARKS = {
    "split:PATH": (
        "own:SplitOwn",
        "The classes of your own data, a few at a time: a folder of images, an .npz, or a table of texts or numbers",
    ),
    "domain:PATHS": (
        "own:DomainsOwn",
        "Your own data from several sources, separated by commas: one domain after another, the same classes in each",
    ),
}


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the benchmarks of a user's own data."""
    for name, (path, summary) in BENCHMARKS.items():
        register(f"clarena_data.{path}", name=name, summary=summary)
