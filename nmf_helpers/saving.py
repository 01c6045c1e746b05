"""A trained model on disk and back: all of it or nothing, and nothing that runs as code."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

FORMAT = 2  # of saved files


def plain(content: Any, where: str = "the file") -> Any:
    """Return content in plain types, however deep: what a file that never runs code can hold.

    Raises
    ------
    TypeError
        For anything but numbers, text, None, tensors, arrays, and lists and dicts of them.
    """
    if isinstance(content, Mapping):
        return {plain(k, where): plain(v, f"{where}[{k!r}]") for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [plain(entry, f"{where}[{i}]") for i, entry in enumerate(content)]
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, str):
        return str(content)  # NumPy's own strings too
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())
    if isinstance(content, torch.Tensor):
        return content.detach().cpu()
    if content is None or isinstance(content, bool | int | float):
        return content
    raise TypeError(f"{where} is a {type(content).__name__}, which cannot be saved")


def write(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write content to a file, and replace an older one only by a file that can be read.

    Raises
    ------
    OSError
        If there is no such folder, no room or no permission; an older file is left as it was.
    TypeError
        As `plain`.
    """
    path = Path(path).expanduser()
    content = plain({"format": FORMAT, **content})
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        writer = left.name.split(".")[-3]  # what a process that was killed has left behind
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            left.unlink(missing_ok=True)
    prefix = f"{path.name}.{os.getpid()}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            torch.save(content, file)
        read(name)
        os.replace(name, path)  # atomic: a reader sees the old file or the new one
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        # On a full disk PyTorch's writer fails once more, for a file that is too short.
        cause = error.__context__
        if isinstance(error, RuntimeError) and isinstance(cause, OSError):
            raise cause from None
        raise


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `write` wrote. Nothing in the file is ever run as code.

    Raises
    ------
    ValueError
        If it is no such file, a damaged one, or one of another version.
    """
    data = BytesIO(Path(path).expanduser().read_bytes())
    try:
        content = dict(torch.load(data, map_location="cpu", weights_only=True))
        version = int(content["format"])
    except Exception as error:  # PyTorch's own advice here is to switch the protection off
        raise ValueError(
            f"{path} is not a saved pipeline, or it is damaged ({type(error).__name__}): "
            "save it again"
        ) from None
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise ValueError(
            f"{path} was saved by {age} version (format {version}, this one reads {FORMAT}): "
            + ("update nmf_helpers" if version > FORMAT else "train and save it again")
        )
    return content
