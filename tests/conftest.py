"""Fixtures for all tests."""

pytest_plugins = ["tests.kafka_fixtures"]
