"""A language model's opinion of the answers: a column beside the rules, never in their place."""

from .endpoint import JudgeSettings
from .judge import JUDGEMENTS, SUMMARY, judge_predictions, prediction_folders, summary_line

__all__ = ["JUDGEMENTS", "SUMMARY", "JudgeSettings", "judge_predictions", "prediction_folders", "summary_line"]
