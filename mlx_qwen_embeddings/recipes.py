"""From a call's options and a model to what is done with each text, and with each vector."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache import CacheKeys, VectorCache
from mlx_qwen_embeddings.calls import Recipe
from mlx_qwen_embeddings.chat import chat_renderer
from mlx_qwen_embeddings.errors import InputTooLongError, ModelLoadError
from mlx_qwen_embeddings.models import Pooling
from mlx_qwen_embeddings.opening import Opened
from mlx_qwen_embeddings.options import EmbedOptions, check_choice
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.prompts import Role, prompt_for
from mlx_qwen_embeddings.statistics import StatsCounter
from mlx_qwen_embeddings.token_ids import TokenIds, keys_for_ids
from mlx_qwen_embeddings.tokenization import Ids


def make_recipe(
    opened: Opened,
    role: Role,
    options: EmbedOptions,
    *,
    cache: VectorCache,
    stats: StatsCounter,
    on_truncated: Callable[[int, int, int], None],
    start: int = 0,
) -> Recipe:
    """Fix prompt, template, pooling and length for a call.

    Args:
        opened: The model.
        role: Whether the texts are queries or documents.
        options: The call's options.
        cache: Where vectors are looked up and stored.
        stats: Where to count.
        on_truncated: Called when texts were cut, see ``Recipe``.
        start: Position of the first text, for messages.

    Raises:
        ValueError: When an option does not suit the model; the message gives the limits.
        ModelLoadError: When the model pools a prompt's text apart from the prompt, which is not served.
    """
    check_choice("role", role, get_args(Role))
    files = opened.files
    max_length = _max_length(opened, options.max_length)
    _check_dimensions(options.dimensions, files.dimensions)
    pooling = files.pooling if options.pooling == "native" else options.pooling
    prompt = prompt_for(role, options.instruction, files.prompts, files.family.template)
    _check_prompt(prompt, pooling, opened)
    template = _template(opened, options)
    keys = CacheKeys(
        model=opened.identity,
        dtype=f"{opened.backend.device}-{opened.backend.dtype}",
        pooling=pooling,
        prompt=prompt,
        chat_template=template,
        max_length=max_length,
    )
    render = _renderer(prompt, template)
    return Recipe(
        tokenizer=opened.tokenizer,
        cache=cache,
        stats=stats,
        render=render,
        keys=keys,
        pooling=pooling,
        prompt=_prompt_ids(opened, render(""), max_length) if prompt or template else None,
        max_length=max_length,
        truncate=options.truncate,
        dimensions=files.dimensions,
        on_truncated=on_truncated,
        start=start,
    )


def recipe_for_ids(recipe: Recipe, opened: Opened, options: EmbedOptions) -> Recipe:
    """Give the recipe for texts that come as token ids.

    Raises:
        ValueError: When a chat template is asked for, which is made of text.
    """
    if options.chat_template:
        message = "a chat template is written around text, not around token ids: send text, or leave it out"
        raise ValueError(message)
    reader = TokenIds(opened.tokenizer, recipe.prompt)
    return replace(recipe, tokenizer=reader, render=lambda text: text, keys=keys_for_ids(recipe.keys))


def _check_prompt(prompt: str, pooling: Pooling, opened: Opened) -> None:
    # The last token is never the prompt's.
    if prompt and pooling != "last" and not opened.files.pools_prompt:
        message = (
            f"{opened.files.path} leaves the tokens of its prompt out of the pooling (include_prompt: false), which is not "
            'served: pass instruction="" to embed without a prompt, or take another model'
        )
        raise ModelLoadError(message)


def _max_length(opened: Opened, wanted: int | None) -> int:
    limit, special = opened.files.limit, opened.tokenizer.special_tokens
    if wanted is None:
        return opened.files.max_length
    if not special < wanted <= limit:
        message = f"max_length must lie between {special + 1} and {limit} for this model, got {wanted}"
        raise ValueError(message)
    return wanted


def _check_dimensions(wanted: int | None, full: int) -> None:
    if wanted is not None and wanted > full:
        message = f"dimensions={wanted} is more than the {full} that this model has"
        raise ValueError(message)


def _template(opened: Opened, options: EmbedOptions) -> str | None:
    wanted = options.chat_template
    if wanted is None or wanted is False:
        return None
    if isinstance(wanted, str):
        return wanted
    if opened.files.chat_template is None:
        message = f"{opened.files.path} has no chat template: pass one as chat_template='...', or leave it out"
        raise ValueError(message)
    return opened.files.chat_template


def _renderer(prompt: str, template: str | None) -> Callable[[str], str]:
    if template is None:
        return lambda text: prompt + text
    render = chat_renderer(template)
    return lambda text: render(prompt + text)


def _prompt_ids(opened: Opened, rendered: str, max_length: int) -> Ids:
    """Give the ids of an empty text: what every text of the call may start with."""
    tokens = opened.tokenizer.encode([rendered], max_length=opened.files.limit)[0]
    if tokens.length >= max_length:
        message = f"max_length={max_length} leaves no room for the text: its prompt has {tokens.length} tokens; raise it"
        raise InputTooLongError(message)
    return tokens.ids[: len(tokens.ids) - len(opened.tokenizer.suffix)]


def finish(vectors: NDArray[np.float32], options: EmbedOptions) -> NDArray[Any]:
    """Cut pooled vectors to the wanted dimensions, then give them unit length: in this order, as Matryoshka asks.

    Args:
        vectors: Pooled vectors, shape (n, d).
        options: ``dimensions``, ``normalize`` and at last ``precision`` are applied.

    Returns:
        Shape (n, dimensions); a bit a component for "binary" and "ubinary".
    """
    if options.dimensions is not None:
        vectors = vectors[:, : options.dimensions]
    if options.normalize:
        # As torch.nn.functional.normalize: a zero vector stays one.
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        vectors = vectors / np.maximum(norms, 1e-12)[:, None]
    vectors = np.ascontiguousarray(vectors)
    whole = options.precision == "float32"
    return vectors if whole else quantize(vectors, options.precision, unit_ranges(vectors.shape[1]))
