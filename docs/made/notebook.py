"""A notebook as a page: executed from top to bottom, its outputs below its cells."""

import base64
import tempfile
from pathlib import Path
from typing import Any

Page = tuple[str, dict[str, bytes]]


def page(path: Path) -> Page:
    """The Markdown of a notebook after running it, and its pictures by file name.

    Raises:
        CellExecutionError: where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return written(notebook, path)


def written(notebook: Any, path: Path) -> Page:
    """The Markdown of an executed notebook, and its pictures."""
    parts, pictures = [], dict[str, bytes]()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above draws]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">\n{data["text/html"]}\n</div>')
            elif text := data.get("text/plain") or (output.get("name") == "stdout" and output.get("text")):
                parts.append("```{ .text .output }\n" + text.rstrip() + "\n```")
    parts.insert(1, f'<a href="{path.name}" download>This page as a notebook</a>, to run and change.')
    return "\n\n".join(parts) + "\n", pictures
