"""What training leaves behind: one record per epoch."""

from typing import Any

from nmf_helpers.checks import nearest

Record = dict[str, Any]


class History(list[Record]):
    """The records of a training run, one dictionary per epoch or sweep, oldest first."""

    def to_frame(self) -> Any:
        """Return a DataFrame with a row per record, whose first entry, the epoch, is the index."""
        import pandas as pd  # here, because training itself does without

        frame = pd.DataFrame(list(self))
        return frame.set_index(frame.columns[0]) if self else frame

    def column(self, name: str) -> list[float]:
        """Return one number of every epoch, or say which there are if none has this name."""
        return [record[nearest("column", name, record)] for record in self]
