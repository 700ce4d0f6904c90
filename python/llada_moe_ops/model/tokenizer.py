"""The checkpoint's tokenizer: text to ids and back, special tokens, chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from ..files import CheckpointError
from .source import resolve_folder

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
MASK_TOKEN = "<|mask|>"
# The string that the published benchmark code builds, for checkpoints that carry no template of their own.
PUBLISHED_TEMPLATE = (
    "{% for message in messages %}"
    "<role>{{ {'user': 'HUMAN', 'assistant': 'ASSISTANT', 'system': 'SYSTEM'}[message['role']] }}</role>"
    "{{ message['content'] }}<|role_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)


class Tokenizer:
    """A ``tokenizer.json`` with the settings beside it.

    Attributes:
        backend: the tokenizers library's object.
        settings: the entries of ``tokenizer_config.json``; empty when there is none.
        chat_template: a jinja template over ``messages`` and ``add_generation_prompt``.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None, chat_template: str | None = None
    ) -> None:
        self.backend = backend
        self.settings = dict(settings or {})
        self.chat_template = chat_template or PUBLISHED_TEMPLATE

    @classmethod
    def from_pretrained(cls, path_or_id: str | os.PathLike[str]) -> Tokenizer:
        """Load from a checkpoint folder or a hub id.

        Raises:
            CheckpointError: a file is missing or damaged; the message names it.
        """
        folder = resolve_folder(path_or_id)
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; a checkpoint folder must hold {TOKENIZER_FILE} to run on text"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer ({error})") from error
        settings = _read_settings(folder / SETTINGS_FILE)
        return cls(backend, settings, _read_template(folder / TEMPLATE_FILE, settings))

    @property
    def mask_token_id(self) -> int | None:
        """The mask token's id, from the settings or its published name; None when there is none."""
        return self._special("mask_token", MASK_TOKEN)

    @property
    def eos_token_id(self) -> int | None:
        """The end-of-text token's id; None when the settings name none."""
        return self._special("eos_token", None)

    def _special(self, name: str, default: str | None) -> int | None:
        entry = self.settings.get(name) or default
        content = entry.get("content") if isinstance(entry, dict) else entry
        return None if content is None else self.backend.token_to_id(content)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens written in it are recognised, none is added."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def chat(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Messages (``role`` and ``content``) through the chat template, ready for the reply.

        Raises:
            ValueError: the template refuses them or is broken.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        names = [name for name, entry in self.settings.items() if name.endswith("_token") and entry]
        contents = {name: self.settings[name] for name in names}
        special = {name: entry["content"] if isinstance(entry, dict) else entry for name, entry in contents.items()}
        try:
            template = environment.from_string(self.chat_template)
            return template.render(
                messages=[dict(message) for message in messages], add_generation_prompt=add_generation_prompt, **special
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the chat template fails: {error}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, got {type(settings).__name__}")
    return settings


def _read_template(path: Path, settings: Mapping[str, Any]) -> str | None:
    """The template's own file, else the settings' entry: a string, or a list of named ones of which one is default."""
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
    entry = settings.get("chat_template")
    if isinstance(entry, list):
        entry = {named["name"]: named["template"] for named in entry}.get("default")
    return entry
