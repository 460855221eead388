"""`python -m geko_proxy.config [folder]`: writes .env.example and docs/settings.md of a checkout anew."""

from __future__ import annotations

import sys
from pathlib import Path

from geko_proxy.config.describe import env_example, settings_page


def main() -> None:
    """Write both files below the folder given (default: the working directory)."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    (root / ".env.example").write_text(env_example(), "utf-8")
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs/settings.md").write_text(settings_page(), "utf-8")


if __name__ == "__main__":
    main()
