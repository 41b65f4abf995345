"""The model that guides, samples, templates and `cci provision up` name, and its deployment."""

from __future__ import annotations

DEFAULT_MODEL = "gpt-5.6-luna"
"""Model of the guides, samples and templates.

Azure retires its version 2026-07-09 on 2028-01-11 (Microsoft Foundry, model retirement schedule of
2026-09-02). OpenAI's deprecations page of November 2026 announces no end of it. The models that
were named before end earlier: `gpt-5-mini` on 2027-02-09 (Azure) and 2026-12-11 (OpenAI),
`gpt-4.1-mini` on 2027-04-14 and 2027-01-14.
"""
DEFAULT_SKU = "GlobalStandard"
DEFAULT_CAPACITY = 10
