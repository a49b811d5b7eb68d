"""What the site needs beyond Markdown: marks for the tests are taken out of code fences."""

from __future__ import annotations

import re
from typing import Any

_MARKED = re.compile(r"^```(\w+) no-run$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show blocks that the tests leave out like all others."""
    return _MARKED.sub(r"```\1", markdown)
