"""The command ``llada-moe``: exit code 0 good, 1 a failure told in one line, 2 wrong usage."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    from .app import app

    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"llada-moe: {first}", file=sys.stderr)
        sys.exit(1)
