"""What a reader touches: live labs over any model, and the figures of the notebooks."""

from nmf_helpers.lab import plots
from nmf_helpers.lab.factor_lab import FactorLab
from nmf_helpers.lab.recommend_lab import FoldInWeights, RecommendLab
from nmf_helpers.lab.training_lab import TrainingLab

__all__ = ["FactorLab", "FoldInWeights", "RecommendLab", "TrainingLab", "plots"]
