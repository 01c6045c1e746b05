"""Every keyword of a constructor, checked and kept under its own name, as in scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

import numpy as np
import torch

from nmf_helpers.checks import check_number, nearest

ANY_TIME = ("lr", "weight_decay", "n_epochs", "batch_size", "verbose")


class Settings:
    """Every keyword of a subclass's constructor as an attribute of its own name, checked when set.

    Those in `ANY_TIME` may be set later as well; the others decide how the object is built.
    """

    defaults: ClassVar[dict[str, Any]]
    hints: ClassVar[dict[str, Any]]
    model_options: Mapping[str, Any] = {}
    model: Any
    is_built = False
    if TYPE_CHECKING:  # the attributes are named by the constructor

        def __getattr__(self, name: str) -> Any: ...

    def __init_subclass__(cls) -> None:
        """Read the names, defaults and limits off the constructor."""
        takes = inspect.signature(cls.__init__).parameters.values()
        cls.defaults = {p.name: p.default for p in takes if p.kind is p.KEYWORD_ONLY}
        cls.hints = get_type_hints(cls.__init__, include_extras=True)
        del cls.defaults["evaluate_on"]  # data, not a setting

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a setting, and refuse one that comes too late, or that there is not."""
        is_ours = name in self.defaults or name in ("evaluate_on", *self.model_options)
        if self.is_built and not name.startswith("_"):
            at_any_time = f"at any time you may set {', '.join(ANY_TIME)}"
            if is_ours and name not in ANY_TIME:
                raise AttributeError(
                    f"{name} decides how a pipeline is built, and this one is: make a new one with "
                    f"{name}=…; {at_any_time}"
                )
            if not is_ours and not hasattr(self, name):
                raise AttributeError(f"a pipeline has no setting {name}: {at_any_time}")
        if name in self.defaults and name != "model":
            value = value.item() if isinstance(value, np.generic) else value
            hint, welcome = self.hints[name], value is None and self.defaults[name] is None
            if hasattr(hint, "__metadata__") and not welcome:
                check_number(name, value, **hint.__metadata__[0])
            elif getattr(hint, "__origin__", None) is Literal:
                nearest(name, value, get_args(hint))
        super().__setattr__(name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, the model's options among them, its class aside."""
        own = {name: getattr(self, name) for name in self.defaults if name != "model"}
        return own | dict(self.model_options)

    def __repr__(self) -> str:
        """Name the model, and the settings that are not the defaults."""
        changed = [f"{k}={v!r}" for k, v in self.settings.items() if v != self.defaults.get(k)]
        return f"{type(self).__name__}({', '.join([type(self.model).__name__, *changed])})"

    def check_options(self, model: type, others: Mapping, mean: float) -> dict[str, Any]:
        """Return what a model is built with, or say which option it doesn't have."""
        known: set[str] = set()
        for cls in model.__mro__:  # also the options that a model passes on to its base
            takes = inspect.signature(cls).parameters.values()
            known.update(option.name for option in takes)
            if all(option.kind is not option.VAR_KEYWORD for option in takes):
                break
        known -= {"n_users", "n_items"}
        ours = {"n_factors": self.n_factors, "dropout": self.dropout, "sparse": self.sparse or None}
        ours = {option: value for option, value in ours.items() if value is not None}
        name = model.__name__
        for option in ours.keys() - known:
            raise ValueError(f"{name} has no {option}: leave it out, or use another model")
        for option in others:
            nearest(f"option of Pipeline or {name}", option, {*self.defaults, *known})
        if self.init == "svd" and others.keys() & {"init_std", "init_mean"}:
            hint = 'this start is "svd": say init="normal" as well, or svd_scale instead'
            raise ValueError(f'init_std and init_mean belong to init="normal", and {hint}')
        return ({"global_mean": mean} if "global_mean" in known else {}) | ours | dict(others)


def find_device(name: str, n_workers: int) -> torch.device:
    """Return the device of this name; "auto" is a GPU if there is one."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu and not n_workers else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'unknown device {name!r}: use "auto", "cpu" or "cuda"') from None
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f'device="{name}", but PyTorch sees no GPU: use "auto" or "cpu"')
    if device.type != "cpu" and n_workers:
        raise ValueError('hogwild workers share memory of the processor: use device="cpu"')
    return device


def name_of(what: str, value: Any, known: Mapping[str, Any]) -> str:
    """Return the name that a file can call something by."""
    for name, object_ in known.items():
        if value is object_ or value == name:
            return name
    raise ValueError(
        f"a pipeline is saved with its {what} by name ({', '.join(known)}), and {value!r} has "
        "none: save the weights alone, by torch.save(pipeline.model.state_dict(), path)"
    )
