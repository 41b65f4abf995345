"""Logger of the package, which redacts secrets from its records."""

from __future__ import annotations

import logging

from cci_plugins.redaction import install

logger = logging.getLogger("cci_plugins")
logger.addHandler(logging.NullHandler())
install(logger)
