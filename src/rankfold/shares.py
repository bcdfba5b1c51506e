"""Shares of samples, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

_CONFIDENCE = 0.95
_PERCENT = 100.0


@dataclass(frozen=True)
class Share:
    """How many of the samples do something."""

    count: int
    samples: int

    @property
    def percent(self) -> float:
        """Return the share in percent."""
        return _PERCENT * self.count / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the share in percent, for samples drawn independently (Wilson 1927)."""
        found = stats.binomtest(self.count, self.samples).proportion_ci(_CONFIDENCE, method="wilson")
        return _PERCENT * float(found.low), _PERCENT * float(found.high)
