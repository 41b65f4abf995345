"""Number of examples that a property is tested with: few in `make test`, many in CI.

CI tries the same examples for the same test, so that a change is judged by itself. `make test`
tries others each time, and prints how to repeat one that fails.
"""

import os

from hypothesis import HealthCheck, settings

THOROUGH = "thorough"


def is_thorough() -> bool:
    return os.environ.get("HYPOTHESIS_PROFILE") == THOROUGH


def examples(count: int) -> settings:
    """Try this many examples in the thorough run, and a twentieth of them in the quick one."""
    return settings(max_examples=count if is_thorough() else count // 20)


def load_profile() -> None:
    """Set the number of examples of properties without one of their own.

    A loaded machine is slow, which says nothing about the code. So no time is compared.
    """
    untimed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("quick", max_examples=15, **untimed)
    settings.register_profile(THOROUGH, max_examples=200, derandomize=True, **untimed)
    settings.load_profile(THOROUGH if is_thorough() else "quick")
