"""The tables of README and notebooks, made from the measurements kept here.

    python -m benchmarks.tables

A table stands between <!-- claims SPLIT -->, <!-- folds -->, <!-- speed --> or <!-- hogwild -->
and <!-- end -->.
`benchmarks` and `benchmarks.claims` renew them after measuring, and a test finds a stale one.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

HERE = Path(__file__).parent
TEXTS = [
    HERE.parent / "README.md",
    HERE / "README.md",
    *sorted((HERE.parent / "notebooks").glob("0*.md")),
]


def write_all() -> None:
    """Renew the tables in all texts."""
    claims, results = (
        json.loads((HERE / name).read_text()) for name in ("claims.json", "results.json")
    )
    for path in TEXTS:
        old = path.read_text(encoding="utf-8")
        new = renewed(old, claims, results)
        if new != old:
            path.write_text(new, encoding="utf-8")


def renewed(text: str, claims: list[dict], results: dict) -> str:
    """Return a text with its tables made anew."""

    def block(match: re.Match) -> str:
        start, kind, split, end = match.groups()
        made = {
            "speed": speed,
            "hogwild": hogwild,
            "folds": lambda _: public_folds(),
            "search": lambda _: searched(),
        }
        table = quality(claims, split) if kind == "claims" else made[kind](results)
        return f"{start}\n{table}\n{end}"

    pattern = r"(<!-- (claims|folds|search|speed|hogwild) ?(\w*) -->)\n.*?(<!-- end -->)"
    return re.sub(pattern, block, text, flags=re.DOTALL)


def quality(claims: list[dict], split: str) -> str:
    """Return the claims about one split as a Markdown table, the best model last.

    The last column compares a row with the one above: paired by user, ± one standard error.
    """
    from benchmarks.claims import ahead

    here = [claim for claim in claims if claim["split"] == split]
    columns = list(dict.fromkeys(claim["metric"] for claim in here))
    values = {(claim["model"], claim["metric"]): claim for claim in here}
    models = sorted({c["model"] for c in here}, key=lambda m: values[m, columns[0]]["value"])
    models = models[::-1] if columns[0] == "rmse" else models
    whose = {claim["model"]: claim["by"] for claim in here}
    rows = []
    for model in models:
        cells = []
        for column in columns:
            claim = values[model, column]
            spread = f" [{min(claim['each']):.3f}, {max(claim['each']):.3f}]"
            cells.append(f"{claim['value']:.3f}" + spread * (len(claim["each"]) > 1))
        above = ""
        if rows:
            difference, error = ahead(model, rows[-1][0], split)
            tie = " (tie)" if abs(difference) < 2 * error else ""
            above = f"{difference:+.4f} ± {error:.4f}{tie}"
        rows.append([model, whose[model], *cells, above])
    return markdown(["model", "from", *columns, "against the row above"], rows)


def searched() -> str:
    """Return the settings that the search chose, as a Markdown table."""
    from benchmarks import search

    return search.table(search.load())


def public_folds() -> str:
    """Return RMSE on the public folds beside what others have published, by u1, the best last."""
    from benchmarks import folds

    found = {(claim["model"], claim["split"]): claim for claim in folds.load()}
    rows = [
        (u1, [name, knows, f"{u1:.4f}", "", "", "", f"published{how and ', '}{how}"])
        for name, u1, knows, how in folds.PUBLISHED
    ]
    for model, (_, knows, _) in folds.MODELS.items():
        values = {fold: found[model, fold]["value"] for fold in folds.MD5}
        five = sum(values[f"u{k}"] for k in range(1, 6)) / 5
        cells = [f"{value:.4f}" for value in (values["u1"], five, values["ua"], values["ub"])]
        seeds = len(found[model, "u1"]["seeds"])
        here = f"measured here, {seeds} seed{'s' * (seeds > 1)}"
        rows.append((values["u1"], [model, knows, *cells, here]))
    columns = ["model", "knows besides ratings", "u1", "mean u1–u5", "ua", "ub", ""]
    return markdown(columns, [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def speed(results: dict) -> str:
    """Return what was timed, on one thread, as a Markdown table."""

    def found(part: str, name: str, quantity: str = "seconds") -> float:
        rows = results[f"{part}, 1 thread"]["rows"]
        return next(row[quantity] for row in rows if name in (*row.values(),))

    def against(what: str, other: str, theirs: float, ours: float, unit: str) -> list[str]:
        both = (f"{x:,.0f} {unit}" if x >= 100 else f"{x:.2g} {unit}" for x in (theirs, ours))
        return [what, f"{other}, {next(both)}", next(both), f"{theirs / ours:,.3g}"]

    sample = found("epoch", "per sample, batch 1024", "ms")
    rows = [
        against(
            f"an epoch of BPR, {how}", "one sample at a time", sample,
            found("epoch", f"ours, {name}", "ms"), "ms",
        )
        for how, name in (
            ("DataLoader and autograd, batch 1024", "autograd, batch 1024"),
            ("DataLoader and autograd, batch 4096", "autograd, batch 4096"),
            ("DataLoader and autograd, batch 8192", "autograd, batch 8192"),
            ("gradient by hand, batch 8192", "by hand, batch 8192"),
        )
    ]  # fmt: skip
    rows.append(
        against(
            "AUC and precision of all users", "one user at a time with scikit-learn",
            found("evaluation", "per user, roc_auc_score", "ms"),
            found("evaluation", "ours, AUC and P@5", "ms"), "ms",
        )
    )  # fmt: skip
    for part, peer, name, quality in (
        ("ranking", "cornac BPR", "implicit()", "nDCG@10"),
        ("rating", "Surprise SVD", "explicit()", "RMSE"),
    ):
        to = f"to the quality of {peer}"
        rows.append(
            against(
                f"to the {quality} of {peer} on a carve", f"{peer} at its fastest",
                found(part, f"{peer}, {to}"), found(part, f"{name}, {to}"), "s",
            )
        )  # fmt: skip
    large = {
        row["way"]: row
        for row in results["scale, 1 thread"]["rows"]
        if row["interactions"] == 20_000_000
    }
    for how, way in (("gradient by hand", "by_hand"), ("autograd", "autograd")):
        rows.append(
            against(
                f"an epoch of 20 million interactions, 64 factors, {how}, "
                f"at most {large[way]['peak MiB']} MiB",
                f"implicit's BPR, at most {large['implicit BPR']['peak MiB']} MiB",
                large["implicit BPR"]["seconds an epoch"], large[way]["seconds an epoch"], "s",
            )
        )  # fmt: skip
    return markdown(["what", "compared with", "here", "times faster"], rows)


def hogwild(results: dict) -> str:
    """Return when two workers are ahead of one process, as a Markdown table."""
    runs = {(row["interactions"], row["way"]): row for row in results["scale, 1 thread"]["rows"]}
    rows = []
    for size in dict.fromkeys(size for size, _ in runs):
        alone, two = runs[size, "by_hand"], runs[size, "by_hand, 2 workers"]
        saved = alone["seconds an epoch"] - two["seconds an epoch"]
        starts = [
            two[f"{which}start seconds"] - alone["start seconds"]
            for which in ("", "later ", "spawn ")
        ]
        ahead = f"{math.floor(starts[0] / saved) + 1}" if saved > 0 else "never"
        rows.append(
            [f"{size:,}"]
            + [f"{row['seconds an epoch']:.2f} s" for row in (alone, two)]
            + [f"{start:.2f} s" for start in starts]
            + [ahead]
            + [f"{row['train loss']:.3f}" for row in (alone, two)]
        )
    columns = [
        "interactions", "an epoch, one process", "two workers", "first start takes longer by",
        "a later one", "new Pythons", "ahead after epoch", "loss after 3, one process",
        "two workers",
    ]  # fmt: skip
    return markdown(columns, rows)


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


if __name__ == "__main__":
    write_all()
