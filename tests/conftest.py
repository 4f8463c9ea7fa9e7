"""What all tests share."""

from importlib.util import find_spec

from mlx_qwen_embeddings.backend import choose_backend

# MLX binds its BLAS when it is first imported: before the test modules do so, the fast one has to be there.
choose_backend()

# These compare with the reference implementations, which only `make parity` installs.
collect_ignore = [] if find_spec("torch") else ["parity"]
