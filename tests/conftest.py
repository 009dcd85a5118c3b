"""Fixtures for all tests, and how hard Hypothesis tries."""

import os
import signal

# One BLAS thread: sums come out the same to the last bit. Said before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import HealthCheck, Phase, settings

# A shell that runs the tests in the background has Ctrl-C ignored, by whatever they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.kafka_fixtures", "tests.redis_fixtures"]

_usual = settings(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("thorough", _usual, max_examples=150)
settings.register_profile("hasty", _usual, max_examples=60, phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thorough"))
