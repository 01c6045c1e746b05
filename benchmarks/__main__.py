"""Measure training, evaluation and time to equal quality, beside what else could be used.

    python -m benchmarks                     everything on MovieLens 100K
    python -m benchmarks epoch evaluation    some parts of it
    python -m benchmarks scale               millions of made-up interactions (minutes)

Every table is printed, and written to benchmarks/results.json with the conditions. What is
compared runs in one process, in turn, several rounds; a figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import peak, peers, per_sample, scale, search, splits, tables
from nmf_helpers import metrics
from nmf_helpers.baselines import EASE, BiasRidge, Popularity
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.recipes import explicit, implicit

RESULTS = Path(__file__).with_name("results.json")
PEERS = ("implicit", "cornac", "scikit-surprise", "lightfm-next", "myfm")
Row = dict[str, object]


def timed(call: Callable) -> tuple[float, object]:
    """Return the seconds a call took, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def bpr(step: str, batch_size: int, n_factors: int = 20, **settings) -> Pipeline:
    """Return our BPR set up for the implicit split, without weight decay unless asked."""
    settings = {"lr": 0.05, "init_std": 0.1, "n_epochs": 10**6} | settings
    return Pipeline(
        splits.imp10()[0], loss="bpr", step=step, optimizer="row_sgd", sparse=True,
        batch_size=batch_size, n_factors=n_factors, **settings,
    )  # fmt: skip


# --- The parts --------------------------------------------------------------------------------


def epoch(threads: int, rounds: int) -> list[Row]:
    """One epoch of BPR, 20 factors, 46,615 positives: per sample, and our loop."""
    train, _ = splits.imp10()
    loops: dict[str, Iterator] = {
        "per sample, batch 1024": per_sample.epochs(train, n_factors=20),
        "ours, autograd, batch 1024": bpr("autograd", 1024).epochs(),
        "ours, autograd, batch 4096": bpr("autograd", 4096).epochs(),
        "ours, autograd, batch 8192": bpr("autograd", 8192).epochs(),
        "ours, by hand, batch 4096": bpr("by_hand", 4096).epochs(),
        "ours, by hand, batch 8192": bpr("by_hand", 8192).epochs(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        next(loop)  # a first epoch pays for what is set up once
    for _ in range(rounds):
        for name, loop in loops.items():
            for _ in range(1 if "per sample" in name else 5):
                seconds[name].append(timed(lambda loop=loop: next(loop))[0])
    return _compared("loop", seconds)


def evaluation(threads: int, rounds: int) -> list[Row]:
    """AUC and precision of all users, scoring included: a loop over users, and ours."""
    train, test = splits.imp10()
    pipeline = bpr("by_hand", 4096, n_epochs=5).fit()
    two = ("auc", "precision@5")
    ways = {
        "per user, roc_auc_score": lambda: per_sample.evaluate(pipeline.model, test, train),
        "ours, AUC and P@5": lambda: metrics.evaluate(pipeline, test, train, two),
        "ours, AUC, P@5, recall and nDCG": lambda: metrics.evaluate(pipeline, test, train),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: way() for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            for _ in range(1 if "per user" in name else 5):
                seconds[name].append(timed(way)[0])
    ours = found["ours, AUC and P@5"]
    assert np.allclose(found["per user, roc_auc_score"], (ours["auc"], ours["precision@5"]))
    return _compared("way", seconds)


def ranking(threads: int, rounds: int) -> list[Row]:
    """Fitting a ranking, and the time to cornac BPR's nDCG@10."""
    train, test = splits.imp10()
    fits: dict[str, Callable] = {
        "popularity": lambda: Popularity().fit(train),
        "EASE": lambda: EASE().fit(train),
        "ours, recipe implicit()": lambda: implicit(train),
    }
    for name, (fit, _) in peers.RANKING.items():
        settings = search.chosen(name, "imp10")
        fits[name] = lambda fit=fit, settings=settings: fit(train, 0, threads, **settings)
    rows = _fit_all(
        fits, rounds, lambda scores: metrics.evaluate(scores, test, train, ("auc", "ndcg@10"))
    )
    return rows + _time_to("cornac BPR", "implicit()", "imp10", threads, rounds)


def rating(threads: int, rounds: int) -> list[Row]:
    """Fitting ratings, and the time to the RMSE of Surprise's SVD."""
    train, test = splits.exp10()
    entries = test.tocoo()
    pairs = entries.row, entries.col
    fits: dict[str, Callable] = {
        "bias ridge": lambda: BiasRidge().fit(train).predict(*pairs),
        "ours, recipe explicit()": lambda: explicit(train).predict(*pairs),
    }
    for name, (fit, _) in peers.RATING.items():
        settings = search.chosen(name, "exp10")
        fits[name] = lambda fit=fit, settings=settings: fit(train, pairs, 0, threads, **settings)
    rows = _fit_all(fits, rounds, lambda p: {"rmse": metrics.rmse(p, entries.data, clip=(1, 5))})
    return rows + _time_to("Surprise SVD", "explicit()", "exp10", threads, rounds)


def memory(threads: int, rounds: int) -> list[Row]:
    """Peak memory of one fit in a process of its own, interpreter and libraries included."""
    names = [*peak.OURS, *peers.RANKING, *peers.RATING]
    rows = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.peak", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        failed = done.returncode
        last = (done.stderr if failed else done.stdout).strip().splitlines()[-1]
        rows.append({"model": name} | ({"skipped": last} if failed else {"MiB": int(last)}))
    return rows


PARTS = {part.__name__: part for part in (epoch, evaluation, ranking, rating, memory)}


# --- Their tools ------------------------------------------------------------------------------


def _compared(what: str, seconds: dict[str, list[float]]) -> list[Row]:
    """Return median times, and how many times faster than the first each is."""
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    first = next(iter(medians.values()))
    return [{what: name, "ms": 1e3 * s, "times faster": first / s} for name, s in medians.items()]


def _fit_all(fits: dict[str, Callable], rounds: int, judge: Callable) -> list[Row]:
    """Fit everything in turn; a row holds the median time and the quality of the first fit."""
    quality: dict[str, Row] = {}
    seconds: dict[str, list[float]] = {}
    for round_ in range(rounds):
        for name, fit in fits.items():
            if round_ and (name not in seconds or seconds[name][0] > 5):
                continue  # not installed, or slow enough to be timed once
            try:
                took, result = timed(fit)
            except ImportError as error:
                quality[name] = {"skipped": str(error)}
                continue
            seconds.setdefault(name, []).append(took)
            if not round_:
                quality[name] = {k: v for k, v in judge(result).items() if not k.startswith("n_")}
    rows = []
    for name, row in quality.items():
        if name in seconds:
            row["seconds"] = float(np.median(seconds[name]))
        rows.append({"model": name} | row)
    return rows


def _time_to(peer: str, ours: str, split: str, threads: int, rounds: int) -> list[Row]:
    """Time both to the value on the carve that the peer's chosen settings reach there.

    Both by one rule: of the settings that `search` drew for it, each takes the one that got there
    soonest, and is fitted anew from beginning to end, in turn.
    """
    target = float(np.mean(next(v for s, v in search.ranked(peer, split, search.load()) if s)))
    rest, held_out = search.carve(split)
    pairs = held_out.nonzero()
    fits = {}
    for name in (peer, ours):
        settings, fit = search.fastest(name, split, target), search.MODELS[name, split][0]
        if settings is None:
            return [{"model": f"{name}, to the quality of {peer}", "skipped": "not reached"}]
        given = (rest,) if split == "imp10" else (rest, pairs)
        fits[name] = lambda fit=fit, given=given, s=settings: fit(*given, 0, threads, **s)
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(rounds):
        for name, fit in fits.items():
            seconds[name].append(timed(fit)[0])
    return [
        {"model": f"{name}, to the quality of {peer}", "seconds": float(np.median(s))}
        for name, s in seconds.items()
    ]


def conditions() -> dict:
    """Say on what, with what and beside what load the figures were measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    versions = {}
    for package in ("torch", "numpy", "scipy", "scikit-learn", *PEERS):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1), "alone on its core": alone(),
        "python": platform.python_version(),
        "versions": versions,
    }  # fmt: skip


def alone() -> bool:
    """Say whether nothing else can take the processor away (``chrt -r 1 python -m benchmarks``)."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_RR


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def print_table(title: str, rows: list[Row]) -> None:
    """Print rows of different keys as one table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)} (the default), or scale")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--millions", type=float, nargs="+", default=[2, 5, 10, 20])
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS) - {"scale"}
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}: choose from {', '.join(PARTS)}, scale")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in options.parts or PARTS:
        for threads in options.threads:
            if part == "memory" and threads > 1:
                continue
            key = f"{part}, {threads} thread{'s' * (threads > 1)}"
            result = {"conditions": conditions()}
            if part == "scale":
                result["rows"] = scale.run(options.millions, threads, min(options.rounds, 2))
            else:
                torch.set_num_threads(threads)
                with threadpool_limits(threads):
                    result["rows"] = PARTS[part](threads, options.rounds)
            print_table(f"{key}: {(PARTS.get(part) or scale.run).__doc__}", result["rows"])
            results[key] = result
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    tables.write_all()


if __name__ == "__main__":
    main()
