"""The training loop: batches, objective, optimiser, schedule, log, exact resume."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from ..files import CheckpointError, write_aside
from ..model import LLaDAMoEConfig, LLaDAMoEModel
from .data import MaskedBatch, portion_batch, step_portions
from .log import TrainingLog
from .objective import diffusion_loss, load_balancing_loss, router_z_loss
from .schedule import learning_rate
from .tasks import TASKS
from .vocabulary import build_tokenizer
from .workers import Workers

STATE_FILE = "training_state.pt"


@dataclass
class TrainConfig:
    """A recipe: everything that decides a run. Two runs of one recipe give the same losses bit for bit.

    Attributes:
        model: entries of the model's ``config.json``.
        mixture: stages as pairs (first step, share of tokens per task).
        steps, tokens_per_step: length of the run; tokens are counted with padding.
        warmup_steps, decay_steps: of the warm-up, stable, decay schedule.
        load_balancing_weight, z_loss_weight: weights of the router's auxiliary losses; 0 switches one off.
        checkpoint_every: steps between saved states.
        workers: processes that share each step's batches; the sum of their gradients depends on the number, so it
            is part of the recipe.
    """

    model: dict[str, Any]
    mixture: list[tuple[int, dict[str, float]]]
    steps: int
    tokens_per_step: int = 6144
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 200
    decay_steps: int = 2000
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    load_balancing_weight: float = 0.01
    z_loss_weight: float = 0.0
    checkpoint_every: int = 200
    workers: int = 2
    seed: int = 0

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TrainConfig:
        """Read a recipe from JSON.

        Raises:
            CheckpointError: missing, not JSON, or with an unknown or missing entry.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**values)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; give a recipe such as assets/recipe.json") from None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise CheckpointError(f"{path}: not a training recipe ({error})") from error

    def mixture_at(self, step: int) -> Mapping[str, float]:
        """The mixture in force at a step."""
        return [shares for first, shares in self.mixture if first <= step][-1]


class Trainer:
    """One run in a folder: ``training_state.pt``, ``training.csv``, ``loss.png`` and the checkpoint when it ends."""

    def __init__(self, config: TrainConfig, folder: str | os.PathLike[str], workers: Workers | None = None) -> None:
        self.config = config
        self.workers = workers or Workers()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer: Tokenizer = build_tokenizer()
        self.model = LLaDAMoEModel(LLaDAMoEConfig.from_dict(config.model, source="recipe"))
        self.model.initialize(torch.Generator().manual_seed(config.seed))
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.peak_learning_rate,
            betas=config.betas,
            fused=True,
        )
        self.step = 0
        self.log = TrainingLog(self.folder)
        self._resume()

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if path.exists():
            try:
                state = torch.load(path, weights_only=True)
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step = int(state["step"])
            except (RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
                raise CheckpointError(
                    f"{path}: cannot be resumed ({str(error).splitlines()[0]}); delete it or choose another folder"
                ) from error
        if self.workers.is_first:
            self.log.truncate(self.step)

    def save_state(self) -> None:
        """Write model, optimiser and step, atomically."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        with write_aside(self.folder / STATE_FILE) as aside:
            torch.save(state, aside)

    def run(self, *, progress: bool = True) -> LLaDAMoEModel:
        """Train from where the folder stands to the recipe's end; write state, log and plot there.

        Returns:
            the trained model, still with fp32 parameters.
        """
        config = self.config
        progress = progress and self.workers.is_first
        with tqdm(total=config.steps, initial=self.step, unit="step", disable=not progress, smoothing=0.02) as bar:
            while self.step < config.steps:
                started = time.monotonic()
                row = self._train_step()
                seconds = time.monotonic() - started
                if not self.workers.is_first:
                    continue
                self.log.append({**row, "seconds": round(seconds, 4)})
                bar.update()
                bar.set_postfix_str(f"loss {row['loss']:.4f}, {row['tokens'] / seconds:.0f} tokens/s")
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self.save_state()
                    self.log.plot()
        return self.model

    def _train_step(self) -> dict[str, Any]:
        config = self.config
        rate = learning_rate(
            self.step, config.peak_learning_rate, config.warmup_steps, config.decay_steps, config.steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        plan = step_portions(config.mixture_at(self.step), config.tokens_per_step, self.workers.count)
        planned = sum(portion.tokens for portions in plan for portion in portions)
        # Per task: its loss weighted by tokens, those tokens, and the tokens really made (padding included).
        sums = {name: [0.0, 0.0, 0.0] for name in TASKS}
        for portion in plan[self.workers.rank]:
            batch = portion_batch(self.tokenizer, portion, config.seed, self.step)
            loss, auxiliary = self._losses(batch)
            ((loss + auxiliary) * (portion.tokens / planned)).backward()
            one = sums[portion.task]
            one[0] += loss.item() * portion.tokens
            one[1] += portion.tokens
            one[2] += batch.tokens
        parameters = list(self.model.parameters())
        totals = self.workers.sum_gradients(parameters, torch.tensor(list(sums.values()), dtype=torch.float64))
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        losses = {f"loss_{name}": one[0] / one[1] for name, one in zip(TASKS, totals.tolist(), strict=True) if one[1]}
        return {
            "step": self.step,
            "tokens": int(totals[:, 2].sum()),
            "learning_rate": rate,
            "gradient_norm": norm.item(),
            "loss": (totals[:, 0].sum() / totals[:, 1].sum()).item(),
            **losses,
        }

    def _losses(self, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        router_logits: list[torch.Tensor] = []
        hidden = self.model.hidden(batch.noisy_ids, batch.attention_mask, router_logits=router_logits)
        logits = self.model.head(hidden[batch.masked])
        loss = diffusion_loss(logits, batch.input_ids, batch.masked, batch.ratios, batch.lengths)
        auxiliary = torch.zeros(())
        if config.load_balancing_weight:
            balance = load_balancing_loss(router_logits, self.model.config.num_experts_per_tok)
            auxiliary = auxiliary + config.load_balancing_weight * balance
        if config.z_loss_weight:
            auxiliary = auxiliary + config.z_loss_weight * router_z_loss(router_logits)
        return loss, auxiliary


def config_json(config: TrainConfig) -> str:
    """A recipe as the JSON that :meth:`TrainConfig.from_file` reads."""
    return json.dumps(asdict(config), indent=2) + "\n"
