"""A trained model on disk and back: all of it or nothing, and nothing that runs as code."""

import glob
import os
import shutil
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

FORMAT = 2  # of saved files


def plain(content: Any, where: str = "the file") -> Any:
    """Return content in plain types, however deep, or a TypeError that names what has none."""
    if isinstance(content, Mapping):
        return {plain(k, where): plain(v, f"{where}[{k!r}]") for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [plain(entry, f"{where}[{i}]") for i, entry in enumerate(content)]
    if isinstance(content, np.ndarray | torch.Tensor):
        return torch.as_tensor(content).detach().cpu()
    content = content.item() if isinstance(content, np.generic) else content
    if content is None or isinstance(content, bool | int | float | str):
        return content
    way_out = "save the weights alone, by torch.save(pipeline.model.state_dict(), path)"
    raise TypeError(f"{where} is {content!r}, which has no name to call it by in a file: {way_out}")


def write(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write content to a file, and replace an older one only by a file that can be read."""
    path, data = Path(path).expanduser(), BytesIO()
    torch.save(plain({"format": FORMAT, **content}), data)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        writer = left.name.split(".")[-3]  # what a process that was killed has left behind
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(".part", f"{path.name}.{os.getpid()}.", path.parent) as own:
        new = Path(own) / path.name
        new.write_bytes(data.getbuffer())
        read(new)
        new.replace(path)  # atomic: a reader sees the old file or the new one


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `write` wrote, never running it as code; a ValueError tells what is wrong."""
    data = BytesIO(Path(path).expanduser().read_bytes())
    try:
        content = dict(torch.load(data, map_location="cpu", weights_only=True))
        version = int(content["format"])
    except Exception as error:  # PyTorch's own advice here is to switch the protection off
        what = f"a saved pipeline, or it is damaged ({type(error).__name__}): save it again"
        raise ValueError(f"{path} is not {what}") from None
    if version != FORMAT:
        way_out = "update nmf_helpers" if version > FORMAT else "train and save it again"
        raise ValueError(f"{path} is of format {version}, not {FORMAT}: {way_out}")
    return content
