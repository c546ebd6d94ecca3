"""Evaluation of maps: methods, measures and sanity checks under one protocol."""

from m2ib_lightning.evaluation.bootstrap import Estimate
from m2ib_lightning.evaluation.comparison import Comparison, compare
from m2ib_lightning.evaluation.evaluator import Evaluator, PairScores
from m2ib_lightning.evaluation.scores import load_scores

__all__ = ["Comparison", "Estimate", "Evaluator", "PairScores", "compare", "load_scores"]
