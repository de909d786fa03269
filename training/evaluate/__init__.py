"""How good a model is: logits on labelled images, and the figures that follow from them."""

from training.evaluate.adapter import (
    AdapterEvaluation,
    AdapterTask,
    Prediction,
    evaluate_adapter,
    open_adapter_task,
)
from training.evaluate.figures import Evaluation, evaluate_logits
from training.evaluate.predict import PassOptions, Precision, predict_logits
from training.evaluate.robustness import CorruptionTable, evaluate_corruptions

__all__ = [
    "AdapterEvaluation",
    "AdapterTask",
    "CorruptionTable",
    "Evaluation",
    "PassOptions",
    "Precision",
    "Prediction",
    "evaluate_adapter",
    "evaluate_corruptions",
    "evaluate_logits",
    "open_adapter_task",
    "predict_logits",
]
