"""How long does CIFAR-100 take from its archive to tensors, and how much memory? (target: seconds, 1.2 × the raw bytes)

The archive is a full-size one in the published layout, made in a scratch folder with an MD5 of its own: of the pixels
in an `.npz` (x_train, x_test), or of noise. Each loader runs in a process of its own; memory is the highest resident
size beyond that after the imports, over the 184,320,000 bytes of all images. For comparison: torchvision's class on the
unpacked archive, and `split:PATH` on the same pixels as one `.npz`. Run: `python perf/cifar.py [cifar100.npz]`.
"""

import hashlib
import multiprocessing
import os
import resource
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
RAW = 60_000 * 3 * 32 * 32


def make(folder: Path, pixels: str | None) -> None:
    """The archive, unpacked beside itself, and the `.npz`."""
    from published import noise, write_cifar100

    if pixels is None:
        x = {"x_train": noise(0, 50_000, 32, 32, 3), "x_test": noise(1, 10_000, 32, 32, 3)}
    else:
        with np.load(pixels) as file:
            x = {key: file[key] for key in ("x_train", "x_test")}
    archive = folder / "cifar-100-python.tar.gz"
    write_cifar100(archive, *(images.transpose(0, 3, 1, 2) for images in x.values()), 100)
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # of Python 3.11.4 and later
        tar.extractall(folder)
    np.savez(folder / "all.npz", **x, y_train=np.arange(50_000) % 100, y_test=np.arange(10_000) % 100)


def patched() -> Any:
    """Torchvision's class, expecting the files that are there."""
    from clarena_native.torchvision_cpu import import_torchvision

    kind = import_torchvision().datasets.CIFAR100
    root = Path(os.environ["CLARENA_DATA"])

    def md5(name: str) -> str:
        with (root / name).open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()

    kind.tgz_md5 = md5(kind.filename)
    kind.train_list, kind.test_list = ([[part, md5(f"{kind.base_folder}/{part}")]] for part in ("train", "test"))
    kind.meta = kind.meta | {"md5": md5(f"{kind.base_folder}/meta")}
    return kind


def archive() -> Callable[[], Any]:
    """Ours: from the archive."""
    from clarena_vision.torchvision_sets import SplitCifar100

    patched()
    return SplitCifar100().data


def own() -> Callable[[], Any]:
    """Ours: from one `.npz`."""
    from clarena_data.own import SplitOwn

    return SplitOwn.of(str(Path(os.environ["CLARENA_DATA"]) / "all.npz"))().data


def torchvision() -> Callable[[], Any]:
    """Torchvision's class, both parts, as contiguous tensors."""
    import torch

    kind = patched()

    def load() -> Any:
        parts = [kind(os.environ["CLARENA_DATA"], train=train) for train in (True, False)]
        return [torch.from_numpy(part.data).movedim(-1, 1).contiguous() for part in parts]

    return load


def measure(prepare: Callable[[], Callable[[], Any]], answer: Any) -> None:
    """Seconds of a load, by the clock and of the processor; the bytes by which it raised the highest resident size."""
    warnings.simplefilter("ignore")  # pixels that occur twice are counted in a warning
    load = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = perf_counter(), process_time()
    held = load()
    seconds, busy = perf_counter() - start, process_time() - busy
    answer.put((seconds, busy, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
    del held


def main(pixels: str | None = None) -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLARENA_DATA"] = folder
        maker = context.Process(target=make, args=(Path(folder), pixels))
        maker.start()
        maker.join()
        size = (Path(folder) / "cifar-100-python.tar.gz").stat().st_size
        print(f"archive of {size / 1e6:.0f} MB, {'noise' if pixels is None else pixels}; raw {RAW / 1e6:.0f} MB")
        for prepare in (archive, own, torchvision):
            answer = context.Queue()
            process = context.Process(target=measure, args=(prepare, answer))
            process.start()
            seconds, busy, memory = answer.get()
            process.join()
            times = f"{seconds:6.2f} s ({busy:.2f} s of the processor)"
            print(f"{prepare.__name__:12} {times}  {memory / RAW:5.2f} × the raw bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
