"""The MLX back end: device, BLAS, threads and streams. The architectures are in ``models``."""
