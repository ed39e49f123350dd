"""Screenshots of every page, in both themes and at both widths.

python -m tests.services.pages.screens FOLDER [--only WORD]
"""

from __future__ import annotations
