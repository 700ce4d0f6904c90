"""``generate --requests``: a file of requests, answered in its order, and errors that name its lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command

LINES: list[dict[str, Any]] = [
    {"prompt": "sort hcabe", "unmasker": "threshold:0.9"},
    {"prompt": "123+456=", "gen_length": 8, "stop": "7"},
    {"prompt": "reverse abcdef", "temperature": 0.9, "seed": 3, "stop": ["xyz"], "steps": 6},
]


def written(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "requests.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_replies_in_the_file_s_order(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, LINES[0], "", *LINES[1:])
    done = command("generate", "--requests", path, "--json")
    assert (done.code, done.err) == (0, "")
    replies = [json.loads(line) for line in done.out.splitlines()]
    assert [reply["prompt"] for reply in replies] == [line["prompt"] for line in LINES]
    assert [reply["text"] for reply in replies] == ["abceh", "5", "fedcba"]
    assert [reply["finish_reason"] for reply in replies] == ["end", "stop", "end"]
    assert replies[0]["steps"] < 6
    assert replies[1]["steps"] == 8
    assert replies[2]["steps"] == 6
    assert len(replies[0]["probabilities"]) == len(replies[0]["commit_steps"]) == len(replies[0]["tokens"]) == 5
    assert command("generate", "--requests", path).out == "abceh\n5\nfedcba\n"
    assert command("generate", "--requests", path, "--json", "--batch-size", "2").out == done.out
    for line, reply in zip(LINES, replies, strict=True):
        alone = command("generate", "--requests", written(tmp_path, line), "--json").out
        assert json.loads(alone) == reply


def test_options_are_what_lines_do_not_say(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "sort hcabe"}, {"prompt": "sort hcabe", "unmasker": "fixed", "gen_length": 9})
    done = command("generate", "--requests", path, "--json", "--unmasker", "threshold:0.9", "--gen-length", "7")
    quick, fixed = (json.loads(line)["steps"] for line in done.out.splitlines())
    assert quick < 7
    assert fixed == 9


def test_grow(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "sort hcabe"}, {"prompt": "sort hcabe", "gen_length": 9})
    done = command("generate", "--requests", path, "--json", "--grow", "2,128")
    grown, fixed = (json.loads(line)["steps"] for line in done.out.splitlines())
    assert (9, done.err) == (fixed, "")
    values = json.loads(command("generate", "sort hcabe", "12+34=", "--json", "--grow", "2,128").out)
    assert len(values["results"][0]["tokens"]) == grown < 128
    values = json.loads(command("generate", "sort hcabe", "12+34=", "--json", "--grow", "2,128,1,0.5,2").out)
    assert [one["text"] for one in values["results"]] == ["abceh", "46"]
    assert len(values["results"][0]["tokens"]) < 12
    assert values["forward_passes"] > values["steps"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("7,x",), "must be INITIAL,MOST"),
        (("7,8,1.5",), "stride must be an int"),
        (("9,2",), "most must be at least initial 9, got 2"),
        (("2,8", "--steps", "4"), "--gen-length and --steps are left out"),
    ],
)
def test_what_grow_refuses(command: Command, options: tuple[str, ...], message: str) -> None:
    done = command("generate", "x", "--grow", *options)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "requests.jsonl:2: not JSON"),
        ("[1]", "requests.jsonl:2: must be a JSON object, got list"),
        ({"gen_length": 4}, "requests.jsonl:2: prompt must be a text that is not empty, got None"),
        ({"prompt": "x", "temprature": 1}, "requests.jsonl:2: a request's key must be one of"),
        ({"prompt": "x", "temperature": -1}, "requests.jsonl:2: temperature must be finite and not negative, got -1"),
        ({"prompt": "x", "unmasker": "fixd"}, "did you mean 'fixed'"),
        ({"prompt": "x", "stop": [7]}, "requests.jsonl:2: stop must hold strings and lists of token ids, got int"),
        (
            {"prompt": "x", "gen_length": 12, "steps": 5, "unmasker": "fixed"},
            "requests.jsonl:2: steps must be a multiple of the number of blocks 3",
        ),
    ],
)
def test_errors_name_file_and_line(
    command: Command, checkpoint: Path, tmp_path: Path, line: dict[str, Any] | str, message: str
) -> None:
    path = written(tmp_path, LINES[0], line)
    done = command("generate", "--requests", path, "-m", checkpoint, "--block-length", "4")
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_wrong_usage(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    path = written(tmp_path, LINES[0])
    for others in (("a prompt",), ("--trace",), ("--lines",)):
        done = command("generate", "--requests", path, *others, "-m", checkpoint)
        assert done.code == 2
        assert "--requests cannot be given together with" in " ".join(done.err.split())
    missing = command("generate", "--requests", tmp_path / "none", "-m", checkpoint)
    assert missing.code == 1
    assert "none" in missing.err
    assert "holds no request" in command("generate", "--requests", written(tmp_path, ""), "-m", checkpoint).err
