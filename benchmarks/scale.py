"""Write the tables of SCALE.md: what 10⁹ texts of 200 tokens cost with the 0.6B, from measured rates and public figures.

``python -m benchmarks.scale`` writes them; ``python -m benchmarks.scale FOLDER`` measures how fast a tokenizer is here, in
tokens per second of processor time, which other programs on the machine do not disturb.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import fill, table

SCALE = Path(__file__).parent / "SCALE.md"

TEXTS, TOKENS = 10**9, 200
WEEK = 7 * 24
"""The deadline in hours for which machines are counted."""

# Qwen3-Embedding-0.6B, from its config.json.
LAYERS, HIDDEN, INNER, HEADS, KEY_HEADS, HEAD = 28, 1024, 3072, 16, 8, 128

CHARACTERS = 4.5
"""Assumed bytes of English text per token: 200 tokens are about 900 bytes."""

TOKENIZER = 4.8e5
"""Tokens per core and second that the tokenizer reaches. Measured; see SCALE.md."""


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Attributes:
        name: Name in the table.
        peak: Peak rate of matrix products in FLOP/s.
        used: Share of the peak that the forward pass reaches.
        watts: Power under load.
        measured: Whether ``peak`` and ``used`` were measured with this package.
    """

    name: str
    peak: float
    used: float
    watts: float
    measured: bool = False

    @property
    def tokens(self) -> float:
        """Tokens per second."""
        return self.peak * self.used / token_flops()


MACHINES = (
    Machine("CPU, 2 cores of an EPYC (Zen 4), float32", 173e9, 0.625, 20, measured=True),
    Machine("CPU, 64 cores of the same", 173e9 * 32, 0.625 * 0.7, 280),
    Machine("Mac mini, M4, 10 GPU cores, bfloat16", 3.76e12, 0.5, 30),
    Machine("H100 SXM, bfloat16, utilisation 20 %", 989.4e12, 0.2, 700),
    Machine("H100 SXM, bfloat16, utilisation 40 %", 989.4e12, 0.4, 700),
)

BITS = {"float32": 32, "float16": 16, "int8, uint8": 8, "binary, ubinary": 1}


def weights() -> int:
    """Return the number of weights that every token is multiplied with: all but the embedding table."""
    attention = HIDDEN * HEAD * (HEADS + 2 * KEY_HEADS) + HEADS * HEAD * HIDDEN
    return LAYERS * (attention + 3 * HIDDEN * INNER)


def token_flops() -> float:
    """Return the FLOPs per token: two per weight, and attention to half of the text on average."""
    return 2 * weights() + LAYERS * 4 * HEADS * HEAD * (TOKENS + 1) / 2


def costs() -> str:
    """Return the table of machines."""
    rows = []
    for machine in MACHINES:
        hours = TEXTS * TOKENS / machine.tokens / 3600
        machines = -(-hours // WEEK)
        kilowatts = hours * machine.watts / 1000
        basis = "measured" if machine.measured else "assumed"
        figures = short(machine.tokens), short(hours), f"{machines:,.0f}", short(kilowatts)
        rows.append((machine.name, basis, *figures))
    head = ("machine", "rate", "tokens/s", "hours on one", "machines for a week", "kWh")
    return table(head, rows)


def vectors() -> str:
    """Return the table of bytes."""
    rows = []
    for name, bits in BITS.items():
        each = {width: TEXTS * width * bits / 8 / 1e12 for width in (HIDDEN, 256)}
        rows.append((name, f"{HIDDEN * bits // 8:,}", *(f"{size:.3g} TB" for size in each.values())))
    return table(("precision", "bytes a vector", "1,024 dimensions", "256 dimensions"), rows)


def flows() -> str:
    """Return the table of the data that a machine must read and write to compute at its rate."""
    rows = []
    for machine in MACHINES:
        texts = machine.tokens / TOKENS
        read, written = texts * TOKENS * CHARACTERS, texts * (TOKENS * CHARACTERS + HIDDEN * 4)
        cores = machine.tokens / TOKENIZER
        rows.append((machine.name, short(texts), *(f"{rate / 1e6:.3g} MB/s" for rate in (read, written)), f"{cores:.2g}"))
    return table(("machine", "texts/s", "reads", "writes, float32", "cores for the tokenizer"), rows)


TABLES: dict[str, Callable[[], str]] = {"costs": costs, "vectors": vectors, "flows": flows}


def short(value: float) -> str:
    """Format a number with three significant digits."""
    digits = 2 - len(str(int(value))) + 1
    return f"{round(value, digits):,.0f}" if digits <= 0 else f"{value:.{digits}f}"


def measure(folder: Path) -> float:
    """Return a tokenizer's tokens per second of processor time, for texts of about ``TOKENS`` tokens."""
    from benchmarks.texts import documents
    from mlx_qwen_embeddings.checkpoint.files import ModelFiles

    tokenizer, texts = ModelFiles(folder).tokenizer(), documents(2000)
    tokenizer.encode(texts[:10], max_length=8192)
    start = time.process_time()
    tokens = sum(token.length for token in tokenizer.encode(texts, max_length=8192))
    return tokens / (time.process_time() - start)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(f"{measure(Path(sys.argv[1])):,.0f} tokens a second of processor time")
    else:
        SCALE.write_text(fill(SCALE.read_text("utf-8"), TABLES), "utf-8")
