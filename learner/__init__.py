"""The fold over the log, and what is kept of it."""
