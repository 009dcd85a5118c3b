"""The log of sales, and what its events are."""
