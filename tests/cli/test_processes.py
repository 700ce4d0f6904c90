"""The command as a process: pipes, exit codes, the live view on a pseudo-terminal, an interrupt, start-up time."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from llada_moe_ops.cli.live import MASK_GLYPH

from .conftest import run_process


def on_terminal(*arguments: object) -> tuple[int, str]:
    """Run with a pseudo-terminal as standard output; its exit code and everything it drew."""
    ours, theirs = pty.openpty()
    call = [sys.executable, "-m", "llada_moe_ops.cli", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "60"}
    with subprocess.Popen(
        call, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, env=environment
    ) as child:
        os.close(theirs)
        drawn = bytearray()
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux reports that the other side is closed
                break
            if not piece:
                break
            drawn += piece
        code = child.wait(timeout=60)
    os.close(ours)
    return code, drawn.decode("utf-8")


def test_help_starts_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['llada-moe', '--help']\n"
        "from llada_moe_ops.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == "False\n"


def test_piped_text_is_plain(checkpoint: Path) -> None:
    done = run_process("generate", "-m", checkpoint, "--gen-length", "8", stdin="sort cab")
    assert done.code == 0
    assert done.err == ""
    assert "\x1b" not in done.out
    assert done.out.count("\n") >= 1


def test_exit_codes_of_the_process(checkpoint: Path) -> None:
    failed = run_process("generate", "x", "-m", checkpoint / "nowhere")
    assert failed.code == 1
    assert failed.err.count("\n") == 1
    assert "Traceback" not in failed.err
    assert run_process("generate", "x", "--no-such-option").code == 2
    values = json.loads(run_process("infill", "a[MASK:3]", "-m", checkpoint, "--json").out)
    assert len(values["results"][0]["tokens"]) == 4


def test_live_view_on_a_terminal(checkpoint: Path) -> None:
    code, drawn = on_terminal("generate", "sort cab", "reverse ab", "-m", checkpoint, "--gen-length", "8")
    assert code == 0
    assert "\x1b[" in drawn
    assert MASK_GLYPH in drawn
    assert "16/16 tokens" in drawn
    assert "step 8" in drawn
    assert "tokens/s" in drawn
    assert "sort cab" in drawn
    assert "reverse ab" in drawn
    assert "forward passes" in drawn.splitlines()[-1]


def test_json_on_a_terminal_is_not_drawn_over(checkpoint: Path) -> None:
    code, drawn = on_terminal("infill", "a[MASK]", "-m", checkpoint, "--json")
    assert code == 0
    assert "\x1b" not in drawn
    assert json.loads(drawn)["steps"] == 1


def test_interrupt_leaves_the_old_file(checkpoint: Path, tmp_path: Path) -> None:
    """Interrupted while it samples: a reply of 200 tokens for each of many prompts takes long enough."""
    path = tmp_path / "reply.txt"
    path.write_text("old", encoding="utf-8")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("sort cab\n" * 300, encoding="utf-8")
    arguments = [
        "generate",
        "-f",
        prompts,
        "--lines",
        "-m",
        checkpoint,
        "--gen-length",
        "200",
        "--block-length",
        "8",
        "-o",
        path,
    ]
    call = [sys.executable, "-m", "llada_moe_ops.cli", *map(str, arguments)]
    with subprocess.Popen(
        call,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as child:
        time.sleep(4)
        child.send_signal(signal.SIGINT)
        code = child.wait(timeout=60)
    assert code == 130
    assert path.read_text(encoding="utf-8") == "old"
    assert sorted(tmp_path.iterdir()) == [prompts, path]
