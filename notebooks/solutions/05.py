"""Solutions of notebook 5. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import numpy as np


# --- 5.1
def average(draws, n_burn_in):
    """Return one prediction per rating from draws of shape (sweeps, ratings).

    The first n_burn_in sweeps don't count. Predictions lie on the scale from 1 to 5.
    """
    # <<<
    return draws[n_burn_in:].mean(axis=0).clip(1, 5)
    # >>>


# --- 5.2
def best_epoch(valid_scores, patience):
    """Return the epoch (1, 2, …) to keep, if training stops `patience` epochs after the best.

    Scores are errors, one per epoch: lower is better.
    """
    # <<<
    best = 1
    for epoch, score in enumerate(valid_scores, start=1):
        if score < valid_scores[best - 1]:
            best = epoch
        if epoch - best == patience:
            break
    return best
    # >>>


# --- 5.3
def optimism(valid, test):
    """Return how much lower the reported test error is, on average, when test does the picking.

    valid and test have shape (experiments, settings).
    """
    # <<<
    picked = valid.argmin(axis=1)
    honest = test[np.arange(len(test)), picked]
    return (honest - test.min(axis=1)).mean()
    # >>>


# --- 5.bug1
def reported(valid_curve, test_curve):
    return test_curve[np.argmin(valid_curve)]
