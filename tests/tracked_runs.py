"""Small records in a store, and what MLflow holds of them."""

from typing import Any

import numpy as np
from records_of_matrices import make_record

from clarena.record.predictions import Predictions
from clarena.record.record import Record
from clarena.record.store import Store

NAN = float("nan")


def run(final: float, seed: int = 0, **fields: Any) -> Record:
    """A run over two experiences that ends with this accuracy on the first, and 1 on the second."""
    return make_record([[NAN, NAN], [1.0, NAN], [final, 1.0]], seed=seed, **fields)


def keep(store: Store, record: Record) -> Record:
    """Write it with predictions that give its matrix: 100 test samples of each experience."""
    if not record.accuracy_matrix:
        return store.write(record, None)
    owner = np.repeat([0, 1], 100)
    rank = np.tile(np.arange(100), 2)
    right = np.nan_to_num(record.matrix * 100, nan=-1)[:, owner]  # how many of them are
    predicted = np.where(right < 0, -1, np.where(rank < np.rint(right), owner, 1 - owner))
    return store.write(record, Predictions.of_classes(predicted=predicted, labels=owner, experience=owner))


def search(uri: str, words: str = "", order: str = "attributes.start_time ASC") -> list[Any]:
    """All runs that are not deleted, but for those that came with the database."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    words = " and ".join(filter(None, ["tags.`clarena.strategy` != 'other'", words]))
    return list(client.search_runs(experiments, words, order_by=[order]))


def cells(uri: str, words: str = "") -> list[Any]:
    return search(uri, " and ".join(filter(None, ["tags.`clarena.kind` = 'cell'", words])))
