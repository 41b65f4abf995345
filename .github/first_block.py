"""Print the first Python block of a Markdown page, for the release to run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
block = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
sys.stdout.write(block[1] if block else sys.exit("the page has no Python block"))
