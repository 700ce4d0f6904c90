"""A small random checkpoint that runs on text, and two ways to call the command line."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.cli import main
from llada_moe_ops.training.export import export_checkpoint
from llada_moe_ops.training.vocabulary import END_OF_TEXT, MASK_TOKEN, VOCABULARY_SIZE, build_tokenizer


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """In this process and its children: the model is so small that waiting for a second thread takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with the embedded model's tokenizer."""
    tokenizer = build_tokenizer()
    config = LLaDAMoEConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        expert_intermediate_size=16,
        rope_theta=10000.0,
        max_position_embeddings=256,
        mask_token_id=tokenizer.token_to_id(MASK_TOKEN),
        eos_token_id=tokenizer.token_to_id(END_OF_TEXT),
        initializer_range=0.4,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    model = LLaDAMoEModel(config).initialize(torch.Generator().manual_seed(0))
    export_checkpoint(model, tokenizer, folder, torch.float32)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: str, stdin: str = "") -> Finished:
        monkeypatch.setattr(sys, "argv", ["llada-moe", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Finished(int(ended.value.code or 0), out, err)

    return run


def run_process(*arguments: object, stdin: str = "") -> Finished:
    """Runs the command line as a process of its own."""
    call = [sys.executable, "-m", "llada_moe_ops.cli", *map(str, arguments)]
    done = subprocess.run(call, input=stdin, capture_output=True, text=True, timeout=120)
    return Finished(done.returncode, done.stdout, done.stderr)
