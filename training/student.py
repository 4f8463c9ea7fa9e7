"""Step 3: train the student on the teacher's token states, its vectors, and the similarities of the vectors."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from training import log, losses, memory
from training.config import SEED, Recipe, WorkFolder
from training.lessons import Batch, Lessons
from training.model import Student
from training.optimizers import optimizers
from training.schedule import WARMUP_STEPS, batches_of_pass, learning_rate

LOG_EVERY = 50
SCORE_EVERY = 500
SCORED_TOGETHER = 50
CHECKPOINT_SECONDS = 300


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: Batches learnt from.
        done: Share of the budget that is spent.
        tokens: Tokens learnt from, without padding.
        seconds: Training time.
        began: Step at which the optimisers started: 0, or where another run was taken over.
    """

    step: int = 0
    done: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    began: int = 0

    @property
    def own_steps(self) -> int:
        """Number of batches that these optimisers have seen."""
        return self.step - self.began


class Training:
    """A student, what it learns from, and all state of the training.

    Args:
        student: The student.
        lessons: What it learns from.
        recipe: The hyperparameters.
        work: Folder of the checkpoint and the log.
        device: "cpu" or "cuda".
    """

    def __init__(self, student: Student, lessons: Lessons, recipe: Recipe, work: WorkFolder, device: str) -> None:
        self.student = student.to(device)
        self.lessons, self.recipe, self.work, self.device = lessons, recipe, work, device
        self.optimizers = optimizers(student, recipe)
        self.rotation = torch.from_numpy(lessons.rotation).to(device)
        self.forward = torch.compile(student, dynamic=True) if recipe.compile else student
        self.memory = memory.nothing(student.shape.hidden_size, device)
        self.progress = Progress()

    def run(self, clock: Callable[[int], float]) -> None:
        """Train until the clock says that the budget is spent.

        Args:
            clock: Returns the share of the budget, 0 to 1, for a step. It sets the learning rate and ends the run.
        """
        started, before = time.monotonic(), self.progress.seconds
        saved = started
        log.forget_after(self.work.log, self.progress.step)
        for rows in self._batches():
            now = time.monotonic()
            progress = self.progress
            progress.seconds, progress.done = before + now - started, clock(progress.step)
            if progress.done >= 1:
                break
            loss = self._step(rows)
            progress.step += 1
            if progress.step % LOG_EVERY == 0:
                self._log(loss)
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
        self._log({}, scores=True, device=device_name(self.device))
        self.save()

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the batches from the current step on, pass after pass."""
        number, passed = 0, 0
        while True:
            for rows in batches_of_pass(self.lessons.learnt, self.lessons.sizes, number, self.recipe.tokens):
                if passed >= self.progress.step:
                    yield rows
                passed += 1
            number += 1

    def _step(self, rows: NDArray[np.int64]) -> dict[str, float]:
        dice = random.Random(SEED + self.progress.step)
        instructed = dice.random() < self.recipe.instructed
        batch = self.lessons.batch(rows, self.lessons.prefix(dice) if instructed else ())
        parts = self._losses(batch)
        total = sum(parts.values(), torch.zeros((), device=self.device))
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        share = learning_rate(self.progress.own_steps, self.progress.done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.progress.tokens += int(batch.last.sum()) + len(rows)
        return {name: part.item() for name, part in parts.items()}

    def _losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the losses of a batch. An instruction must not change the meaning, so the targets ignore it."""
        with torch.autocast(self.device, torch.bfloat16):
            states, vectors = self.forward(self._there(batch.ids), self._there(batch.last))
        content, wanted = self._there(batch.content), self._there(batch.states) @ self.rotation
        targets = self._targets(batch)
        weight = self.recipe.states * (1 - 0.9 * self.progress.done)
        found = {"vectors": losses.of_vectors(vectors.float(), targets, self.memory)}
        if self.progress.own_steps >= WARMUP_STEPS:  # before that, its vectors of a text change too fast
            self.memory.keep(vectors.float(), targets)
        if weight:
            found["states"] = weight * losses.of_states(states[content].float(), wanted)
        return found

    def scores(self) -> dict[str, float]:
        """Return how close the student is to the teacher on texts that it does not learn from."""
        held_in = self.lessons.held_in
        pairs = [self._pair(rows) for rows in np.array_split(held_in, -(-len(held_in) // SCORED_TOGETHER))]
        vectors, targets = (torch.cat(side) for side in zip(*pairs, strict=True))
        cosine = float((normalize(vectors, dim=-1) * targets).sum(1).mean())
        return {"cosine": cosine} | {f"agreement_{d}": losses.agreement(vectors, targets, d) for d in (384, 128)}

    def _pair(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.lessons.batch(rows)
        with torch.inference_mode():
            _, vectors = self.student(self._there(batch.ids), self._there(batch.last))
        return vectors.cpu(), self._targets(batch).cpu()

    def _there(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _targets(self, batch: Batch) -> torch.Tensor:
        return normalize(self._there(batch.vectors) @ self.rotation, dim=-1)

    def _log(self, loss: dict[str, float], *, scores: bool = False, **more: str) -> None:
        where = {name: value for name, value in asdict(self.progress).items() if name != "began"}
        line: dict[str, Any] = where | {f"loss_{name}": part for name, part in loss.items()}
        if scores or self.progress.step % SCORE_EVERY == 0:
            line |= self.scores()
        log.append(self.work.log, line | more)

    def save(self) -> None:
        """Write the whole checkpoint or nothing."""
        state = {
            "student": self.student.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
            "memory": vars(self.memory),
            "lessons": self._lessons_digest(),
        }
        partial = self.work.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.work.checkpoint)

    def resume(self, file: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: If it belongs to other shards, axes or batches, with which the run cannot continue.
        """
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["lessons"] != self._lessons_digest():
            raise ValueError(
                f"{file} comes of other shards, another rotation.npy or other --tokens: "
                "put them back as they were, or remove it to start from scratch"
            )
        self.student.load_state_dict(state["student"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.progress = Progress(**state["progress"])
        if "memory" in state:  # an older checkpoint has no memory
            self.memory = memory.Memory(**state["memory"])

    def _lessons_digest(self) -> str:
        parts = self.lessons.sizes.tobytes(), self.lessons.rotation.tobytes(), str(self.recipe.tokens).encode()
        return hashlib.sha256(b"".join(parts)).hexdigest()


def device_name(device: str) -> str:
    """Return a description of the device."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
