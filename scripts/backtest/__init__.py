"""``salescast backtest``: what forecasts would have been, from files of events."""

from scripts.backtest.command import register

__all__ = ["register"]
