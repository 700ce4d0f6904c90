"""Runs every shell block of a Markdown file that is marked as runnable (```bash runnable), each in its own shell."""

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```bash runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Run the blocks; the exit code is 1 when one fails or none is found."""
    path = Path(sys.argv[1])
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    if not blocks:
        print(f"{path}: no block marked as runnable", file=sys.stderr)
        return 1
    for block in blocks:
        print(block, flush=True)
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=path.resolve().parent, check=False)
        if result.returncode:
            print(f"{path}: this block failed with {result.returncode}:\n{block}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
