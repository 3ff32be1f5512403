"""A kept model in MLflow: a logged model with signature and input example, which MLflow loads and serves.

Its code is a file (`templates/model.py.txt`), its state the file of the store: nothing of it is a pickle.
"""

import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clarena.record.scorings import ANSWERED_BY_CLASSES
from clarena.record.writing import state_sha256

CODE = Path(__file__).with_name("templates") / "model.py.txt"
STATE_TAG = "clarena.model"
"""The tag of a run with the SHA-256 of the model that is logged for it; written last."""


def log_model(client: Any, experiment: str, run: Any, path: Path, name: str) -> None:
    """Log the model of a run, in place of one that was logged for it before, in part or of another state.

    One that does not answer with classes is left to Python: MLflow's table of answers has no place for it.

    Args:
        run: MLflow's run of the cell.
        path: of the model's file.
        name: what the model is called.
    """
    import torch
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    from clarena.toolbox.saved import unpacked

    content = unpacked(path.read_bytes(), torch.device("cpu"))
    if content["target"] not in ANSWERED_BY_CLASSES:
        return
    run_id, sha256 = str(run.info.run_id), state_sha256(path)
    earlier = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model"
        _save(path, content, made)
        tags = {"clarena.cell": run.data.tags["clarena.cell"], STATE_TAG: sha256}
        model = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=tags)
        client.log_model_artifacts(model.model_id, str(made))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    for each in earlier:
        client.delete_logged_model(each.model_id)
    client.set_tag(run_id, STATE_TAG, sha256)


def _save(path: Path, content: Mapping[str, Any], folder: Path) -> None:
    """Write a model as MLflow has models, in a folder."""
    import mlflow.pyfunc

    code = folder.with_name("model.py")
    code.write_text(CODE.read_text(encoding="utf-8"), encoding="utf-8")
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        artifacts={"model": str(path)},
        signature=_signature(content),
        input_example=(_example(content), _parameters(content)) if _parameters(content) else _example(content),
        pip_requirements=_requirements(),
    )
    _make_movable(folder)


def _make_movable(folder: Path) -> None:
    """Have the model's files named by where they lie in its folder, not by where they were when it was saved."""
    from mlflow.models import Model

    saved = Model.load(str(folder))
    flavor = saved.flavors["python_function"]
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    saved.save(str(folder / "MLmodel"))


def _example(content: Mapping[str, Any]) -> Any:
    """A row of the test data, as MLflow is to give it to the model."""
    import pandas as pd

    row, columns = content["rows"]["example"].numpy(), content["rows"]["encoding"].get("columns")
    return pd.DataFrame(row.astype(float), columns=pd.Index(columns)) if columns else row


def _parameters(content: Mapping[str, Any]) -> dict[str, int]:
    """What has to be said besides, with an example: the task, or whose transform."""
    if content["scenario"] == "task":
        return {"task": 0}
    return {"experience": 0} if len(content["transforms"]) > 1 else {}


def _signature(content: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    from clarena.toolbox.saved import answer_columns, answered

    row, columns = content["rows"]["example"].numpy(), content["rows"]["encoding"].get("columns")
    inputs = [ColSpec("double", name) for name in columns] if columns else None
    answers = answer_columns([content["outputs"]["names"][output] for output in answered(content)])
    named = _parameters(content)
    kinds = ["string", *["double"] * (len(answers) - 1)]
    per_token = content["context"]["tokens"][1:] == [True]
    return ModelSignature(
        inputs=Schema(inputs or [TensorSpec(np.dtype(row.dtype), (-1, *row.shape[1:]))]),
        outputs=None if per_token else Schema([ColSpec(kind, name) for kind, name in zip(kinds, answers)]),
        params=ParamSchema([ParamSpec(name, DataType.long, -1) for name in named]) if named else None,
    )


def _requirements() -> list[str]:
    """This distribution and torch, as they are here."""
    found = []
    for package in ("clarena-bench", "torch", "numpy"):
        try:
            found.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:  # a checkout that is not installed
            found.append(package)
    return found
