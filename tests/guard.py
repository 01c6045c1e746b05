"""For nbval's kernels: the test part of a split stays shut until the cell that opens it.

Where a cell is tagged `opens-test`, what leave_n_out hid from all data may be read from that cell
on, and before it only in cells tagged `about-test`. What is hidden from a training part again
is validation, and free. Nothing that a notebook prints changes.
"""

import functools
import json
from pathlib import Path

from scipy.sparse import csr_matrix

from nmf_helpers import data


class Shut(csr_matrix):
    """A matrix that tells its guard whenever somebody reads where its entries are, or what."""

    asks = staticmethod(lambda: None)
    nnz = property(lambda self: len(self.__dict__["data"]))  # how many there are is no secret,
    dtype = property(lambda self: self.__dict__["data"].dtype)  # nor in which type

    def __getattribute__(self, name):
        if name in ("data", "indices", "indptr"):
            object.__getattribute__(self, "asks")()
        return object.__getattribute__(self, name)

    def __reduce__(self):  # for a process that has no guard
        return csr_matrix, ((self.data, self.indices, self.indptr), self.shape)


def cells_by_tag(first):
    """Sources of the cells with each tag, in the notebook here that begins with that cell."""
    found = {"opens-test": set(), "about-test": set()}
    for path in Path.cwd().glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if "outputs" in c]
        if cells and "".join(cells[0]["source"]) == first:
            for cell in cells:
                for tag in found.keys() & cell["metadata"].get("tags", ()):
                    found[tag].add("".join(cell["source"]))
    return found


class Guard:
    """Knows which cell runs, what has been split, and whether the test part is open."""

    def __init__(self):
        self.training_parts, self.opened, self.cell, self.tagged = [], False, "", None

    def runs(self, info):
        self.cell = info.raw_cell
        self.tagged = self.tagged or cells_by_tag(self.cell)
        self.opened |= self.cell in self.tagged["opens-test"]

    def asked(self):
        if not self.opened and self.cell not in self.tagged["about-test"]:
            raise PermissionError(
                "the test part is read before the cell tagged opens-test: use the validation part, "
                "or tag a cell that is about this mistake about-test"
            )

    def shut(self, whole, rest, hidden):
        """Return both parts of a split, the second one guarded unless it is for validation."""
        if self.tagged["opens-test"] and not any(whole is part for part in self.training_parts):
            hidden = Shut(hidden)
            hidden.asks = self.asked
        self.training_parts.append(rest)
        return rest, hidden


def load_ipython_extension(shell):
    """Set the guard for one kernel (IPython calls this)."""
    guard, split = Guard(), data.leave_n_out

    @functools.wraps(split)
    def leave_n_out(matrix, *args, **options):
        return guard.shut(matrix, *split(matrix, *args, **options))

    data.leave_n_out = leave_n_out
    shell.events.register("pre_run_cell", guard.runs)
