"""llama.cpp on the 7B's geometry with random weights: whole non-causal forwards, all T logits.

    python -m benchmarks.peers.llama_cpp --format bf16 --tokens 32 128            # 16 layers: 15 GB on disk
    python -m benchmarks.peers.llama_cpp --layers 4 8 --format q8_0 --tokens 32   # extrapolated from two sizes
    python -m benchmarks.peers.llama_cpp --check                                  # its logits against this library's

It keeps no keys and values for this model, so that every step of its sampler is such a forward.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from llada_moe_ops import LLaDAMoEConfig, LLaDAMoEModel
from llada_moe_ops.machine import processor
from llada_moe_ops.model.checkpoint import published_tensors
from torch import Tensor

from ..full_size import FULL_LAYERS, full_config
from .gguf_file import BLOCK_BYTES, Source, random_source, write
from .peer import importable

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
}


def available() -> str | None:
    """None, or why llama.cpp is missing."""
    return importable("gguf") or importable("llama_cpp")


class LlamaCpp:
    """A loaded file, and its forward pass over a number of tokens."""

    def __init__(self, path: Path, tokens: int, threads: int) -> None:
        import llama_cpp

        self.native, self.tokens = llama_cpp, tokens
        llama_cpp.llama_log_set(_quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = tokens
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(tokens, 0, 1)

    def forward(self, ids: Tensor) -> np.ndarray[Any, Any]:
        """The logits [T, V] of every position, in llama.cpp's buffer."""
        self.batch.n_tokens = self.tokens
        for position, token in enumerate(ids.tolist()):
            self.batch.token[position], self.batch.pos[position] = token, position
            self.batch.n_seq_id[position], self.batch.seq_id[position][0] = 1, 0
            self.batch.logits[position] = 1
        if self.native.llama_encode(self.context, self.batch):
            raise RuntimeError("llama.cpp's forward failed")
        logits = self.native.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (self.tokens, self.vocabulary))

    def close(self) -> None:
        """Free everything."""
        self.native.llama_batch_free(self.batch)
        self.native.llama_free(self.context)
        self.native.llama_model_free(self.model)


def _make_quiet() -> Any:
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    return callback(lambda level, text, _: sys.stderr.write(text.decode()) if level == LOG_ERROR else None)


LOG_ERROR = 4
_quiet = _make_quiet()


@contextmanager
def opened(path: Path, tokens: int, threads: int) -> Iterator[LlamaCpp]:
    """A loaded file that is freed at the end."""
    loaded = LlamaCpp(path, tokens, threads)
    try:
        yield loaded
    finally:
        loaded.close()


def measure(path: Path, tokens: int, threads: int, repeats: int) -> dict[str, float]:
    """Milliseconds of whole forwards, after one to warm up."""
    ids = torch.randint(0, 150_000, (tokens,), generator=torch.Generator().manual_seed(1))
    seconds = []
    with opened(path, tokens, threads) as loaded:
        assert np.isfinite(loaded.forward(ids)).all(), "logits must be finite"
        for _ in range(repeats):
            start = time.perf_counter()
            loaded.forward(ids)
            seconds.append(time.perf_counter() - start)
    return {"min_ms": min(seconds) * 1e3, "median_ms": median(seconds) * 1e3}


def check(folder: Path) -> float:
    """Relative difference between its logits and this library's, on a small model in bf16."""
    config = LLaDAMoEConfig(
        vocab_size=640,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        expert_intermediate_size=128,
        rope_theta=50000,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    draws = torch.Generator().manual_seed(0)
    model = LLaDAMoEModel(config).initialize(draws).bfloat16().requires_grad_(False)
    path, ids = folder / "check.gguf", torch.randint(0, config.vocab_size, (40,), generator=draws)
    write(path, config, "bf16", model_source(model))
    with opened(path, len(ids), torch.get_num_threads()) as loaded:
        theirs = torch.from_numpy(loaded.forward(ids).copy())
    ours = model(ids[None]).logits[0].float()
    return float((ours - theirs).norm() / theirs.norm())


def model_source(model: LLaDAMoEModel) -> Source:
    """A model's tensors under their names in GGUF."""
    published = dict(published_tensors(model))
    config = model.config
    tensors = {
        "token_embd.weight": published["model.embed_tokens.weight"],
        "output_norm.weight": published["model.norm.weight"],
        "output.weight": published["lm_head.weight"],
    }
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        for name, ours in LAYER_NAMES.items():
            tensors[f"blk.{index}.{name}.weight"] = published[f"{layer}.{ours}.weight"]
        for kind in ("gate", "up", "down"):
            experts = (f"{layer}.mlp.experts.{expert}.{kind}_proj.weight" for expert in range(config.num_experts))
            tensors[f"blk.{index}.ffn_{kind}_exps.weight"] = torch.stack([published[name] for name in experts])
    return lambda name, shape: tensors[name]


def random_file(folder: Path, layers: int, format: str) -> Path:
    """The file of the 7B's geometry with random weights; written unless it is there."""
    path = folder / f"llada-moe-{layers}-{format}.gguf"
    if not path.exists():
        config, aside = full_config(layers), path.with_suffix(".part")
        write(aside, config, format, random_source(config.initializer_range))
        aside.rename(path)
    return path


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write and measure every size asked for; with two sizes, what 16 layers would take."""
    facts = {"processor": processor(), "llama-cpp-python": version("llama-cpp-python"), "threads": options.threads}
    forwards: list[dict[str, Any]] = []
    for layers in options.layers:
        path = random_file(folder, layers, options.format)
        for tokens in options.tokens:
            times = measure(path, tokens, options.threads, options.repeats)
            forwards.append({"layers": layers, "format": options.format, "tokens": tokens, **times})
    full = {}
    if len(options.layers) == 2 and FULL_LAYERS not in options.layers:
        small, large = options.layers
        medians = {(row["layers"], row["tokens"]): row["median_ms"] for row in forwards}
        for tokens in options.tokens:
            a_layer = (medians[large, tokens] - medians[small, tokens]) / (large - small)
            full[tokens] = medians[large, tokens] + (FULL_LAYERS - large) * a_layer
    return {**facts, "forwards": forwards, **({"extrapolated_16_layers_median_ms": full} if full else {})}


def main() -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[FULL_LAYERS])
    parser.add_argument("--format", choices=sorted(BLOCK_BYTES), default="bf16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are written, or found (default: temporary)")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if reason := available():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.check:
            print(f"relative difference of the logits in bf16: {check(folder):.2g}")
        else:
            print(json.dumps(run(options, folder), indent=2))


if __name__ == "__main__":
    main()
