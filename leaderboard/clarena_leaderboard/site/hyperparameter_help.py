"""What the hyper-parameters of the built-in strategies mean, read from their source: no strategy is imported."""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from clarena.errors import ClarenaError
from clarena.plugins.host import Host, PluginSources


@cache
def meanings(strategy: str) -> dict[str, str]:
    """A sentence for each hyper-parameter of a built-in strategy; those of a composite are `ewc.strength`."""
    found = {"learning_rate": "Step size of the optimiser; every strategy has it."}
    targets = _targets()
    parts = [strategy] if strategy in targets else re.split(r"\+(?=\w)", strategy)
    for name in parts:
        module, _, class_name = targets.get(name, "").partition(":")
        prefix = f"{name}." if len(parts) > 1 else ""
        if module:
            found |= {prefix + key: text for key, text in _described(module, class_name).items()}
    return found


@cache
def _targets() -> dict[str, str]:
    """The lazy reference behind each built-in name."""
    try:
        strategies = Host.discover(PluginSources(third_party=False)).strategies
    except ClarenaError:
        return {}
    return {entry.name: entry.target for entry in strategies if isinstance(entry.target, str)}


@cache
def _described(module: str, class_name: str) -> dict[str, str]:
    """The `Field(description=…)` of each keyword-only argument of a class and of its bases in the same file."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return {}
    classes = {
        node.name: node
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, str] = {}
    waiting = [class_name]
    while waiting:
        node = classes.get(waiting.pop(0))
        if node is None:
            continue
        waiting += [base.id for base in node.bases if isinstance(base, ast.Name)]
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                for argument in method.args.kwonlyargs:
                    found.setdefault(argument.arg, _description(argument.annotation))
    return {name: text for name, text in found.items() if text}


def _description(annotation: ast.expr | None) -> str:
    """The description within an annotation `Annotated[…, Field(description="…")]`."""
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.keyword) and node.arg == "description" and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return ""
