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
        """Return one number of every epoch, or say which there are if one has none of this name."""
        for record in self:
            if name not in record:
                raise ValueError(
                    f"no {name!r} was recorded in epoch {record['epoch']}, only {sorted(record)}"
                )
        return [record[name] for record in self]
