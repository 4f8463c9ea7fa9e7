"""How much may wait for the worker: so many tokens of those who stand in line, and a few apart for small requests."""

from mlx_qwen_embeddings.schedule import Request

SMALL_SHARE = 8
"""Small requests have this part of the queue, beside it, to themselves: so no job, however large, holds them back."""


class Room:
    """The tokens that wait or run; a request counts until it is done."""

    def __init__(self, most: int) -> None:
        """Bound those in line by ``most``, and the small ones that passed it by an eighth of that."""
        self._most = most
        self._in_line = 0
        self._passed: set[Request] = set()
        self._apart = 0

    @property
    def tokens(self) -> int:
        """Tokens of all that was let in."""
        return self._in_line + self._apart

    def has(self, request: Request, *, first: bool, small: bool) -> bool:
        """Say whether a request may come in: the first of the line, or a small one that passes it.

        Small ones that come without end never keep a large one out, since they are not counted against its room.
        """
        return (first and self._fits(request)) or (small and self._apart + request.tokens <= self._most // SMALL_SHARE)

    def add(self, request: Request, *, first: bool) -> None:
        """Count a request that may come in."""
        if first and self._fits(request):
            self._in_line += request.tokens
        else:
            self._passed.add(request)
            self._apart += request.tokens

    def remove(self, request: Request) -> None:
        """Count it no longer."""
        if request in self._passed:
            self._passed.remove(request)
            self._apart -= request.tokens
        else:
            self._in_line -= request.tokens

    def _fits(self, request: Request) -> bool:
        # One that is larger than all the room has it to itself.
        return not self._in_line or self._in_line + request.tokens <= self._most
