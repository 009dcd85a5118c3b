"""Measured speed of every stage beside its bare limit: ``python -m tests.bench``."""
