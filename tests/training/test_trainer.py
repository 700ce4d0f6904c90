"""The trainer: schedule, data as a function of the step, exact resume after a kill, errors."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from llada_moe_ops import CheckpointError, LLaDAMoEModel
from llada_moe_ops.training import TrainConfig, train
from llada_moe_ops.training.data import portion_batch, step_portions
from llada_moe_ops.training.schedule import learning_rate
from llada_moe_ops.training.trainer import config_json
from llada_moe_ops.training.vocabulary import build_tokenizer

MODEL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "expert_intermediate_size": 16,
    "rope_theta": 10000,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "mask_token_id": 2,
}


def recipe(**changes: object) -> TrainConfig:
    values = {
        "model": MODEL,
        "mixture": [[0, {"sort": 0.6, "arithmetic": 0.4}], [6, {"reverse": 1.0}]],
        "steps": 12,
        "tokens_per_step": 600,
        "warmup_steps": 3,
        "decay_steps": 4,
        "checkpoint_every": 4,
        "z_loss_weight": 0.001,
        "workers": 1,
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def losses(folder: Path) -> list[tuple[str, ...]]:
    """Every column of the log but the time it took."""
    with (folder / "training.csv").open(newline="") as file:
        return [tuple(value for key, value in row.items() if key != "seconds") for row in csv.DictReader(file)]


def test_schedule_warms_up_stays_and_decays() -> None:
    rates = [learning_rate(step, 1.0, 10, 20, 100) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[50] == rates[79] == 1.0
    assert rates[90] == 0.5
    assert abs(rates[99] - 0.05) < 1e-9
    assert rates[:10] == sorted(rates[:10])
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_every_task_is_shared_out_once_and_evenly() -> None:
    plan = step_portions({"sudoku9": 0.5, "sort": 0.3, "reverse": 0.2}, 6000, 2)
    sizes = [sum(portion.tokens for portion in portions) for portions in plan]
    assert sizes == [3000, 3000]
    assert sorted(portion.task for portions in plan for portion in portions) == ["reverse", "sort", "sudoku9"]
    whole = step_portions({"sort": 1.0}, 6000, 2)
    assert [[(portion.part, portion.tokens) for portion in portions] for portions in whole] == [
        [(0, 3000)],
        [(1, 3000)],
    ]


def test_batches_are_a_function_of_seed_and_step() -> None:
    tokenizer = build_tokenizer()
    portion = step_portions({"sort": 1.0}, 800, 1)[0][0]
    one, again, other = (portion_batch(tokenizer, portion, 0, step) for step in (5, 5, 6))
    assert torch.equal(one.noisy_ids, again.noisy_ids)
    assert torch.equal(one.ratios, again.ratios)
    assert one.input_ids.shape != other.input_ids.shape or not torch.equal(one.input_ids, other.input_ids)
    assert 0.8 * 800 <= one.tokens <= 1.2 * 800


def test_prompts_are_never_masked() -> None:
    tokenizer = build_tokenizer()
    batch = portion_batch(tokenizer, step_portions({"arithmetic": 1.0}, 3000, 1)[0][0], 0, 0)
    assistant = tokenizer.token_to_id("ASSISTANT")
    for row in range(batch.input_ids.shape[0]):
        reply = (batch.input_ids[row] == assistant).nonzero().max() + 2
        assert not batch.masked[row, :reply].any()
        assert batch.lengths[row] == batch.attention_mask[row].sum() - reply
    assert batch.masked.any()


@pytest.mark.parametrize("workers", [1, 2])
def test_training_writes_a_checkpoint_log_and_plot(tmp_path: Path, workers: int) -> None:
    torch_threads = torch.get_num_threads()
    folder = train(recipe(workers=workers), tmp_path / "run", progress=False)
    torch.set_num_threads(torch_threads)
    rows = losses(folder)
    assert [row[0] for row in rows] == [str(step) for step in range(1, 13)]
    assert float(rows[-1][4]) < float(rows[0][4]), "the loss falls"
    assert (folder / "loss.png").stat().st_size > 1000
    model = LLaDAMoEModel.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert (folder / "tokenizer.json").exists()


def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    """The same losses bit for bit as a run that nobody disturbed, after kill -9 between two saved states."""
    path = tmp_path / "recipe.json"
    path.write_text(config_json(recipe(steps=24, tokens_per_step=2000)))
    command = [sys.executable, "-m", "llada_moe_ops.training", str(path)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "training.csv"
    deadline = time.monotonic() + 60
    while not (log.exists() and len(losses(tmp_path / "killed")) >= 6) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(losses(tmp_path / "killed"))
    assert 6 <= done < 24, "killed in the middle"
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert written[0] == written[1]


def test_damaged_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "training_state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"training_state\.pt: cannot be resumed"):
        train(recipe(), tmp_path, progress=False)


def test_state_of_another_recipe_is_told(tmp_path: Path) -> None:
    train(recipe(steps=1), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=r"training_state\.pt: cannot be resumed"):
        train(recipe(model={**MODEL, "hidden_size": 64}), tmp_path, progress=False)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {}, "colour": 1}'])
def test_bad_recipe_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="not a training recipe"):
        TrainConfig.from_file(path)
    with pytest.raises(CheckpointError, match="no such file"):
        TrainConfig.from_file(tmp_path / "absent.json")
