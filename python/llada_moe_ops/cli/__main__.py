"""``python -m llada_moe_ops.cli``: the same as the command ``llada-moe``."""

from . import main

main()
