"""The errors rankfold raises on purpose: one root, and one child for each thing a user can mend."""

from __future__ import annotations


class RankfoldError(Exception):
    """Root of all errors below; its message says where, what was found, what was expected and what to do."""


class ModelError(RankfoldError):
    """The model file cannot be used."""


class CalibrationDataError(RankfoldError):
    """The calibration data does not fit the model or cannot be read."""


class PlanError(RankfoldError):
    """The rank plan does not fit the model, or the budget cannot be met."""


class OptionsError(RankfoldError):
    """A setting makes no sense."""


class RuntimeUnavailableError(RankfoldError):
    """The runtime or the provider asked for is not there."""


class OutputError(RankfoldError):
    """An output cannot be written."""
