"""What goes wrong is told in one line, with exit code 1 for failures and 2 for wrong usage; files stay whole."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from llada_moe_ops import LLaDAMoEModel
from llada_moe_ops.cli.output import write
from llada_moe_ops.model.tokenizer import Tokenizer

from .conftest import Command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "x", "--gen-length", "12", "--block-length", "8"), "is not a multiple of"),
        (("generate", "x", "--gen-length", "8", "--block-length", "2", "--steps", "6"), "number of blocks 4"),
        (("generate", "x", "--gen-length", "0"), "--gen-length"),
        (("generate", "x", "--temperature", "-1"), "--temperature"),
        (("generate", "x", "--remasking", "sure"), "low_confidence"),
        (("generate", "x", "--cache", "all"), "vicinity"),
        (("infill", "[MASK]", "--cache", "vicinity:-1"), "neighbours must be at least 0, got -1"),
        (("generate", "x", "--cache", "interval", "--unmasker", "klass"), "take another cache"),
        (("infill", "[MASK]", "--smoothing", "iteraton"), "did you mean 'iteration'"),
        (("generate", "x", "--unmasker", "treshold:0.9"), "did you mean 'threshold'"),
        (("infill", "[MASK]", "--unmasker", "threshold:9"), "threshold must be from 0 to 1, got 9"),
        (("eval", "sort", "--smoothing", "iteration:limit=x"), "limit must be a number, got str"),
        (("eval", "sort", "--unmasker", "fixed:9"), "'fixed' must have no parameters"),
        (("generate", "x", "--dtype", "float16"), "bfloat16"),
        (("generate", "x", "--quantization", "int2"), "int4"),
        (("generate", "x", "--speed", "9"), "--speed"),
        (("generate", ""), "the text is empty"),
        (("generate",), "the text is empty"),
        (("infill", "no masks"), "nothing to fill"),
        (("score", "x"), "Missing argument"),
        (("score", "x", ""), "the answer is empty"),
        (("score", "x", "y", "--mc-num", "10", "--batch-size", "4"), "is not a multiple of"),
        (("dance",), "dance"),
    ],
)
def test_wrong_usage(command: Command, checkpoint: Path, arguments: tuple[str, ...], message: str) -> None:
    model = ("-m", checkpoint) if arguments[0] != "dance" else ()
    done = command(*arguments, *model)
    assert done.code == 2
    assert done.out == ""
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "x", "-m", "/no/such/folder"), "no such folder"),
        (("generate", "-f", "/no/such/file"), "/no/such/file"),
        (("generate", "x" * 300, "-m", "CHECKPOINT", "--gen-length", "8"), "max_position_embeddings 256"),
        (("generate", "x", "-m", "CHECKPOINT", "--gen-length", "8", "-o", "/no/such/folder/out"), "cannot be written"),
        (("score", "x", "y" * 300, "-m", "CHECKPOINT"), "max_position_embeddings 256"),
        (("train", "/no/such/recipe.json", "/tmp/never"), "no such file"),
    ],
)
def test_failures_take_one_line(command: Command, checkpoint: Path, arguments: tuple[str, ...], message: str) -> None:
    done = command(*(str(checkpoint) if one == "CHECKPOINT" else one for one in arguments))
    assert done.code == 1
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("llada-moe: ")
    assert done.err.count("\n") == 1


def test_pack_leaves_nothing_half_written(
    command: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("pack", "/no/such/folder", tmp_path / "out")
    assert done.code == 1
    assert "no such folder" in done.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    for taken in (tmp_path / "old", tmp_path / "old" / "file"):
        done = command("pack", checkpoint, taken)
        assert done.code == 1
        assert "is there already" in done.err
    save = LLaDAMoEModel.save_packed

    def interrupted(self: LLaDAMoEModel, folder: Path) -> None:
        save(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(LLaDAMoEModel, "save_packed", interrupted)
    assert command("pack", checkpoint, tmp_path / "out").code == 130
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_a_binary_file_is_no_prompt(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    done = command("generate", "-f", tmp_path / "binary", "-m", checkpoint)
    assert done.code == 1
    assert "not UTF-8 text" in done.err


def test_output_replaces_a_file_only_when_whole(
    command: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reply.txt"
    done = command("generate", "sort cab", "-m", checkpoint, "--gen-length", "8", "-o", path)
    assert done.code == 0
    assert done.out == ""
    whole = path.read_text(encoding="utf-8")
    assert whole == command("generate", "sort cab", "-m", checkpoint, "--gen-length", "8").out
    write_text = Path.write_text

    def fail(error: BaseException) -> Any:
        def half(self: Path, text: str, **options: Any) -> int:
            write_text(self, text[:3], **options)
            raise error

        return half

    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        monkeypatch.setattr(Path, "write_text", fail(error))
        with pytest.raises(type(error)):
            write("something new", path)
        assert path.read_text(encoding="utf-8") == whole
        assert list(tmp_path.iterdir()) == [path]


def test_tokenizer_files(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(checkpoint)
    text = "sort cab\n1+2="
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|mask|>") == [tokenizer.mask_token_id]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    expected = "<role>SYSTEM</role>s<|role_end|><role>HUMAN</role>u<|role_end|><role>ASSISTANT</role>"
    assert tokenizer.chat(messages) == expected
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        (checkpoint / "tokenizer.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    plain = Tokenizer.from_pretrained(tmp_path)
    assert plain.chat(messages) == expected, "without a template of its own, the published one"
    assert plain.mask_token_id == tokenizer.mask_token_id
    assert plain.eos_token_id is None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}', encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}", encoding="utf-8")
    own = Tokenizer.from_pretrained(tmp_path)
    assert own.chat(messages) == "s<|endoftext|>"
    assert own.eos_token_id == tokenizer.eos_token_id
    for template in ("{{ raise_exception('no system turn') }}", "{% if %}", "{{ ''.__class__.__mro__ }}"):
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
        with pytest.raises(ValueError, match="the chat template fails"):
            Tokenizer.from_pretrained(tmp_path).chat(messages)
    (tmp_path / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: must hold a JSON object"):
        Tokenizer.from_pretrained(tmp_path)
