"""Hypothesis profiles and the fixtures that several layers share."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# A slow, shared machine is no reason to fail: what is too slow shows in scripts/bench.
settings.register_profile(
    "dev",
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.register_profile(
    "soak", settings.get_profile("dev"), max_examples=1000, stateful_step_count=60
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# A shell that starts the suite in the background has it and all its processes ignore these.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
