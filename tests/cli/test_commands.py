"""Every command: its output, its JSON, its exit codes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from llada_moe_ops import __version__, cuda
from llada_moe_ops.cli.checkpoint import EMBEDDED
from llada_moe_ops.training.tasks import EVALUATION_TASKS

from .conftest import Command

COMMANDS = ("generate", "infill", "score", "train", "eval", "pack", "doctor", "demo", "bench")


def test_help_and_version(command: Command) -> None:
    assert command("--version").out == f"llada-moe {__version__}\n"
    assert all(name in command("--help").out for name in COMMANDS)
    for name in COMMANDS:
        shown = command(name, "--help")
        assert shown.code == 0
        assert "Usage" in shown.out


def test_generate_text_and_json_agree(command: Command, checkpoint: Path) -> None:
    base = ("generate", "sort cab", "reverse ab", "-m", checkpoint, "--gen-length", "8")
    text, as_json = command(*base), command(*base, "--json")
    assert text.code == as_json.code == 0
    assert text.err == ""
    values = json.loads(as_json.out)
    assert [one["prompt"] for one in values["results"]] == ["sort cab", "reverse ab"]
    assert text.out == "".join(one["text"] + "\n" for one in values["results"])
    assert all(len(one["tokens"]) == 8 for one in values["results"])
    assert values["steps"] == values["forward_passes"] == 8
    assert values["seconds"] > 0
    assert "trace" not in values


def test_generate_trace(command: Command, checkpoint: Path) -> None:
    done = command(
        "generate", "sort cab", "-m", checkpoint, "--gen-length", "8", "--block-length", "4", "--steps", "4", "--trace"
    )
    values = json.loads(done.out)
    assert [step["block"] for step in values["trace"]["steps"]] == [0, 0, 1, 1]


def test_the_same_text_by_argument_file_and_standard_input(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    options = ("-m", checkpoint, "--gen-length", "8")
    expected = command("generate", "sort cab", *options).out
    path = tmp_path / "prompt.txt"
    path.write_text("sort cab\n", encoding="utf-8")
    assert command("generate", "-f", path, *options).out == expected
    assert command("generate", *options, stdin="sort cab\n").out == expected
    assert command("generate", "-", *options, stdin="sort cab").out == expected
    path.write_text("sort cab\nsort cab\n", encoding="utf-8")
    assert command("generate", "-f", path, "--lines", *options).out == expected * 2


def test_cache(command: Command) -> None:
    """On the embedded model: with a single layer keys do not depend on other tokens, and nothing would differ."""
    options = ("generate", "sort cab", "--json", "--trace", "--cache")
    exact, kept = (json.loads(command(*options, cache).out)["trace"]["steps"] for cache in ("none", "dual"))
    assert exact[0] == kept[0]
    # nearly certain tokens: one step's may round alike
    assert [step["probabilities"] for step in exact] != [step["probabilities"] for step in kept]


def test_unmasker(command: Command) -> None:
    values = [
        json.loads(command(*words, "--json", "--unmasker", rule).out)
        for words in (("generate", "sort hcabe"), ("infill", "12[MASK]34=[MASK:2]"))
        for rule in ("fixed", "threshold:0")
    ]
    assert [one["steps"] > 1 for one in values] == [True, False, True, False]
    (row,) = json.loads(command("eval", "sort", "--count", "20", "--unmasker", "threshold:0.9", "--json").out)[
        "results"
    ]
    assert row["correct"] >= 18
    assert row["steps"] < 8


def test_seed_and_raw(command: Command, checkpoint: Path) -> None:
    base = ("generate", "sort cab", "-m", checkpoint, "--gen-length", "16", "--json")

    def tokens(*options: str) -> list[int]:
        values: list[int] = json.loads(command(*base, *options).out)["results"][0]["tokens"]
        return values

    hot = ("--temperature", "2.0", "--seed")
    assert tokens(*hot, "1") == tokens(*hot, "1") != tokens(*hot, "2")
    assert tokens(*hot, "1", "--top-k", "1") == tokens(*hot, "1", "--top-p", "1e-6") == tokens()
    assert tokens("--raw") != tokens()
    assert tokens("--remasking", "random", "--seed", "1") != tokens("--remasking", "random", "--seed", "2")
    assert tokens("--cfg-scale", "1.5") != tokens()
    assert len(tokens("--dtype", "bfloat16", "--stop-at-eos")) == 16


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_embedded_model_answers_when_quantised(command: Command, quantization: str) -> None:
    base = ("--quantization", quantization, "--json")
    (reply,) = json.loads(command("generate", "sort hcabe", *base).out)["results"]
    assert reply["text"] == "abceh"
    (filled,) = json.loads(command("infill", "12[MASK]34=46", *base).out)["results"]
    assert filled["text"] == "12+34=46"
    scored = ("score", "sort hcabe", "abceh", "--seed", "0", "--mc-num", "16", "--json")
    likely = [json.loads(command(*scored, *more).out)["log_likelihood"] for more in (base[:2], ())]
    assert likely[0] != likely[1]
    assert abs(likely[0] - likely[1]) < 1
    (row,) = json.loads(command("eval", "reverse", "--count", "20", *base).out)["results"]
    assert row["correct"] >= 19
    done = command("demo", *base[:2])
    assert done.code == 0, done.err
    assert f"embedded model, {quantization}, cpu" in done.out


def test_infill(command: Command, checkpoint: Path) -> None:
    done = command("infill", "1+[MASK]=[MASK:2]", "[MASK]b", "-m", checkpoint, "--json")
    values = json.loads(done.out)
    first, second = values["results"]
    assert len(first["tokens"]) == 6
    assert len(second["tokens"]) == 2
    assert first["text"].startswith("1+")
    assert second["text"].endswith("b")
    assert first["input"] == "1+[MASK]=[MASK:2]"
    text = command("infill", "1+[MASK]=[MASK:2]", "[MASK]b", "-m", checkpoint)
    assert text.out == first["text"] + "\n" + second["text"] + "\n"
    stepwise = command("infill", "-m", checkpoint, "--trace", "--steps", "1", stdin="1+[MASK]=[MASK:2]")
    assert len(json.loads(stepwise.out)["trace"]["steps"]) == 1


def test_score(command: Command, checkpoint: Path) -> None:
    base = ("score", "sort cab", "abc", "-m", checkpoint, "--seed", "1")
    values = json.loads(command(*base, "--json").out)
    assert values["log_likelihood"] < 0 < values["standard_error"]
    assert values["answer_tokens"] == 3
    assert len(values["batch_losses"]) == 8
    text = command(*base).out
    assert text.startswith(f"{values['log_likelihood']:.4f} ± {values['standard_error']:.4f} nats")
    one_batch = command(*base, "--mc-num", "4", "--json")
    assert json.loads(one_batch.out)["standard_error"] is None
    assert "no standard error" in command(*base, "--mc-num", "4").out
    assert math.isfinite(json.loads(command(*base, "--raw", "--json").out)["log_likelihood"])


def test_eval(command: Command, checkpoint: Path) -> None:
    done = command("eval", "sort", "operator", "-m", checkpoint, "--count", "3", "--json")
    values = json.loads(done.out)
    assert [row["task"] for row in values["results"]] == ["sort", "operator"]
    for row in values["results"]:
        low, high = row["interval"]
        assert row["count"] == 3
        assert low - 1e-9 <= row["accuracy"] <= high + 1e-9
    table = command("eval", "sort", "-m", checkpoint, "--count", "3").out
    assert "sort" in table
    assert "/3" in table
    unknown = command("eval", "sorting", "-m", checkpoint)
    assert unknown.code == 2
    assert all(name in unknown.err for name in EVALUATION_TASKS)


def test_train_writes_a_checkpoint_that_generate_takes(command: Command, tmp_path: Path) -> None:
    recipe = json.loads((EMBEDDED / "recipe.json").read_text(encoding="utf-8"))
    recipe.update(steps=2, tokens_per_step=256, warmup_steps=1, decay_steps=1, workers=1)
    recipe["model"].update(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, expert_intermediate_size=16)
    recipe["model"].update(num_key_value_heads=2, moe_layer_freq=1)
    recipe["mixture"] = [[0, {"sort": 1.0}]]
    path, folder = tmp_path / "recipe.json", tmp_path / "run"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    done = command("train", path, folder)
    assert (done.code, done.out) == (0, f"{folder}\n"), done.err
    assert command("generate", "sort cab", "-m", folder, "--gen-length", "4").code == 0
    path.write_text("{", encoding="utf-8")
    broken = command("train", path, folder)
    assert broken.code == 1
    assert "not a training recipe" in broken.err


@pytest.mark.parametrize("options", [(), ("--quantization", "int8"), ("--quantization", "int4", "--dtype", "bfloat16")])
def test_pack_writes_a_folder_that_generate_takes(
    command: Command, checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "some" / "packed"
    done = command("pack", checkpoint, out, *options)
    assert (done.code, done.out, done.err) == (0, f"{out}\n", "")
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "packed.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    base = ("generate", "sort cab", "--gen-length", "8", "-m")
    assert command(*base, out).out == command(*base, checkpoint, *options).out


def test_doctor_finds_everything(command: Command) -> None:
    done = command("doctor")
    assert done.code == 0, done.out
    assert "torch" in done.out
    assert "paths built" in done.out
    assert "cuda built" in done.out
    assert "embedded checkpoint" in done.out
    assert done.out.endswith("everything is there\n")


def test_doctor_names_what_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("llada_moe_ops.cli.checkpoint.EMBEDDED", tmp_path)
    done = command("doctor")
    assert done.code == 1
    assert "missing: the embedded checkpoint" in done.out


def test_doctor_shows_a_gpu(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"name": "NVIDIA H100", "compute_capability": 90, "multiprocessors": 132, "memory": 80 << 30}
    facts: dict[str, Any] = {"driver": 13000, "runtime": 13000, "error": "", "devices": [card]}
    monkeypatch.setattr(cuda, "build_info", lambda: ("13.0.88", ("compute_80", "sm_80", "sm_90a")))
    monkeypatch.setattr(cuda, "runtime_info", lambda: facts)
    done = command("doctor")
    assert done.code == 0, done.out
    assert "compute_80, sm_80, sm_90a by nvcc 13.0.88" in done.out
    assert "serves CUDA 13.0; the build needs CUDA 13.0" in done.out
    assert "NVIDIA H100, sm_90, 132 multiprocessors, 80 GiB, path sm90a" in done.out
    facts["devices"] = [{**card, "compute_capability": 70}]
    assert "missing: CUDA device 0, NVIDIA H100 (sm_70), is not among the architectures built" in command("doctor").out
    facts.update(driver=12040, devices=[], error="too old")
    assert "missing: the driver is too old for this build: it serves CUDA 12.4" in command("doctor").out


def test_demo_checks_its_answers(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = command("demo", "--svg", picture)
    assert done.code == 0, done.err
    right = re.search(r"^(\d) of 6 answers right", done.out, re.MULTILINE)
    assert right is not None
    assert int(right.group(1)) >= 5
    assert done.out.count("✓") == int(right.group(1))
    assert "tokens/s" in done.out
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "▒" in drawn
