"""The embedded checkpoint's own tokenizer: one token per character, per task word and per role marker."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT = "<|endoftext|>"
MASK_TOKEN = "<|mask|>"
ROLE_MARKERS = ("<role>", "</role>", "<|role_end|>")
ROLES = ("SYSTEM", "HUMAN", "ASSISTANT")
WORDS = ("sudoku", "sort", "reverse")
VOCABULARY_SIZE = 128
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<role>{{ {'user': 'HUMAN', 'assistant': 'ASSISTANT', 'system': 'SYSTEM'}[message.role] }}</role>"
    "{{ message.content }}<|role_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """A word-level tokenizer over printable ASCII and newline; anything else becomes ``<unk>``."""
    special = (END_OF_TEXT, "<unk>", MASK_TOKEN, *ROLE_MARKERS, *ROLES)
    characters = ("\n", *(chr(code) for code in range(32, 127)))
    vocabulary = {token: index for index, token in enumerate((*special, *WORDS, *characters))}
    assert len(vocabulary) <= VOCABULARY_SIZE
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join((*WORDS, "[\\s\\S]"))), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def chat_prompt(text: str) -> str:
    """The published template around one user turn, ready for the reply."""
    return f"<role>HUMAN</role>{text}<|role_end|><role>ASSISTANT</role>"
