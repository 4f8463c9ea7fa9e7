"""The MLX back end: device, BLAS, threads and streams; architectures are in `models`."""
