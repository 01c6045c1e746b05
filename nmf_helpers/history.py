"""What training leaves behind: one record per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]


class History(list[Record]):
    """The records of a training run, one dictionary per epoch, oldest first."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per epoch, one column per recorded number."""
        import pandas as pd  # here, because training itself does without

        return pd.DataFrame(list(self)).set_index("epoch") if self else pd.DataFrame()

    def column(self, name: str) -> list[float]:
        """Return one number of every epoch.

        Raises
        ------
        ValueError
            If an epoch has no number of this name; those that it has are listed.
        """
        for record in self:
            if name not in record:
                raise ValueError(
                    f"no {name!r} was recorded in epoch {record['epoch']}, only {sorted(record)}"
                )
        return [record[name] for record in self]

    def best_epoch(self, name: str, lower_is_better: bool = True) -> int:
        """Return the epoch with the best of these numbers so far, the first of equals."""
        worst = float("inf")
        values = [value if lower_is_better else -value for value in self.column(name)]
        finite = [value if value == value else worst for value in values]  # NaN is never best
        return self[finite.index(min(finite))]["epoch"]
