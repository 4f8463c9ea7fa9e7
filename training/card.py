"""Write the model card from the folder, the measurements and the run's log, so that no figure is typed by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from training.config import INSTRUCTIONS
from training.evaluate import SHORT
from training.evaluate import table as scores

TEMPLATE = Path(__file__).with_name("card.md")


def write(folder: Path, measured: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write a packed folder's `README.md`.

    Args:
        folder: The model's folder.
        measured: What `evaluate.measure` returned.
        log: The run's log.

    Raises:
        ValueError: If the log holds no finished run.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ends = [line for line in log if "device" in line]
    if not ends:
        raise ValueError("the log is of a run that has not come to its end: let the student step finish")
    end = ends[-1]
    near, far = measured["pasta"]
    facts = {
        "megabytes": f"{size(folder) / 1e6:.1f} MB",
        "architecture": architecture(config),
        "parameters": parameters(config),
        "weights": weights(config.get("quantization")),
        "vocabulary": f"{config['vocab_size']:,}",
        "eos": str(config["eos_token_id"]),
        "dimensions": str(config["hidden_size"]),
        "positions": f"{config['max_position_embeddings']:,}",
        "scores": scores(measured["sets"]),
        "short": str(SHORT),
        "cosine": f"{end['cosine']:.3f}",
        "agreement": f"{end['agreement_384']:.3f}",
        "agreement_short": f"{end['agreement_128']:.3f}",
        "near": f"{near:.3f}",
        "far": f"{far:.3f}",
        "instructions": str(len(INSTRUCTIONS)),
        "moved": f"{measured['moved']:.3f}",
        "device": end["device"],
        "minutes": f"{end['seconds'] / 60:.0f}",
        "tokens": f"{end['tokens'] / 1e6:.0f} M",
    }
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(facts)
    (folder / "README.md").write_text(text, encoding="utf-8")


def size(folder: Path) -> int:
    """Return the bytes of a packed folder without its card."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix != ".md")


def architecture(config: Mapping[str, Any]) -> str:
    """Return the shape in words."""
    heads = (
        f"{config['num_attention_heads']} heads of {config['head_dim']} ({config['num_key_value_heads']} key/value heads)"
    )
    return (
        f"`qwen3`, {config['num_hidden_layers']} layers, width {config['hidden_size']}, {heads}, "
        f"feed-forward {config['intermediate_size']:,}, rope_theta {config['rope_theta']:g}"
    )


def parameters(config: Mapping[str, Any]) -> str:
    """Return the number of parameters in words, without the few of the norms."""
    table = config["vocab_size"] * config["hidden_size"]
    heads = 2 * (config["num_attention_heads"] + config["num_key_value_heads"]) * config["head_dim"]
    layers = config["num_hidden_layers"] * config["hidden_size"] * (heads + 3 * config["intermediate_size"])
    return f"{(table + layers) / 1e6:.1f} M, of which {table / 1e6:.1f} M are the embedding table"


def weights(packing: Mapping[str, Any] | None) -> str:
    """Return how the weights are packed, in words."""
    if packing is None:
        return "float32"
    tables = [part["bits"] for part in packing.values() if isinstance(part, dict)]
    other = "".join(f"; the embedding table {bits}-bit" for bits in tables)
    return f"MLX affine {packing['bits']}-bit, groups of {packing['group_size']}{other}; norms in float32"
