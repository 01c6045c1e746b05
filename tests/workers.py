"""What tests give to hogwild workers, in a file of its own, which a worker reads in a moment."""

import os
import time
from functools import partial
from itertools import islice

import numpy as np
import scipy.sparse as sp
import torch

from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import PairwiseInteractions
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import BiasedMF
from nmf_helpers.training import GradientStep

TRAIN = sp.csr_array(np.random.default_rng(0).random((60, 40)) < 0.3).astype(np.float32)


def model():
    torch.manual_seed(0)
    return BiasedMF(*TRAIN.shape, 4, sparse=True, init_std=0.1)


def hogwild(model, dataset=None, *, loss=bpr_loss, lr=0.05, batch_size=32, n_epochs=3, **changes):
    rates = {"lr": lr, "weight_decay": 0.0, "batch_size": batch_size}
    step = partial(GradientStep, optimizer="row_sgd", reduction="sum", loss=loss, lr=lr)
    changes = {"n_workers": 2, "rates": lambda epoch: rates} | changes
    records = train_hogwild(model, dataset or PairwiseInteractions(TRAIN), step, **changes)
    return islice(records, n_epochs) if n_epochs else records


class Telltale(PairwiseInteractions):
    """Writes down which random states its negatives were drawn from."""

    def sample_negatives(self, users):
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(f"{self.generator.initial_seed()} {torch.initial_seed()}\n")
        return super().sample_negatives(users)


def slope_of_one(prediction, target):
    return prediction.mean()


def target_itself(prediction, target):
    return target.mean() + 0 * prediction.sum()


def raising(difference, target):
    raise ArithmeticError("out of cheese")


def leaving(difference, target):
    raise SystemExit(0)


def hanging(difference, target):
    os.write(1, b"in an epoch\n")
    time.sleep(600)


def one_dies_rest_hang(difference, target, flag):
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        time.sleep(600)
    os.kill(os.getpid(), 9)
