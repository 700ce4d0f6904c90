"""The command ``llada-moe``: exit code 0 good, 1 a failure told in one line, 2 wrong usage."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit."""
    # Read by OpenMP when torch loads it: threads that wait sleep. Spinning, its default, makes short calls several
    # times slower as soon as another process shares a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .app import app

    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"llada-moe: {first}", file=sys.stderr)
        sys.exit(1)
