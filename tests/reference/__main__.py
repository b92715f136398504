"""Write the pages of reference that have changed."""

from __future__ import annotations

import sys

from tests.reference import DOCS, PAGES

for name, page in PAGES.items():
    path, made = DOCS / name, page()
    if not path.exists() or path.read_text("utf-8") != made:
        path.write_text(made, "utf-8")
        sys.stdout.write(f"{name}\n")
