"""Solutions of notebook 3. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import numpy as np
import torch

from nmf_helpers.models import BiasedMF
from nmf_helpers.training import train as train_model

# Small stand-ins for what the notebook has at hand.
n_users, n_items, mean_rating = 3, 2, 3.0
train_batch = (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])), torch.tensor([5.0, 3.0, 1.0])


# --- 3.1
def shrunk_bias(deviations, strength):
    """Return the mean of the deviations, pulled to 0 by `strength` imagined zeros."""
    # <<<
    n = len(deviations) + strength
    return deviations.sum() / n if n else 0.0
    # >>>


# --- 3.2
def step(p, q, rating, lr, weight_decay):
    """Return the new p and the new q after one step on one rating.

    The loss is ½ (rating - p·q)² + ½ weight_decay (p·p + q·q).
    """
    # <<<
    error = rating - p @ q
    new_p = p + lr * (error * q - weight_decay * p)
    new_q = q + lr * (error * p - weight_decay * q)
    return new_p, new_q
    # >>>


# --- 3.3
def difference(scores_a, scores_b):
    """Return the mean of a - b over seeds, and the standard error of that mean."""
    # <<<
    gaps = scores_a - scores_b
    return gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))
    # >>>


# --- 3.bug1
def careful_experiment(seed):
    torch.manual_seed(seed)
    model = BiasedMF(n_users, n_items, n_factors=5, global_mean=mean_rating)
    *_, last = train_model(model, [train_batch], lr=0.05, n_epochs=5)
    return last["train_loss"]


# --- 3.bug2
class Squeezed(BiasedMF):
    def forward(self, users, items):
        match = (self.user_factors(users) * self.item_factors(items)).sum(-1, keepdim=True)
        return (self.user_bias(users) + self.item_bias(items) + match).squeeze(-1)
