"""Run a job on a cluster and print a line for each finished part. Arguments: source, folder, address."""

import sys
from collections.abc import Iterator, Sequence

from mlx_qwen_embeddings.bulk import embed_parquet
from mlx_qwen_embeddings.bulk.corpus import CorpusJob
from mlx_qwen_embeddings.ray import Placement, RayRunner


class ReportingRunner(RayRunner):
    """Prints a line for each finished part."""

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        for rows in super().run(job, missing):
            sys.stdout.write(f"part of {rows}\n")
            sys.stdout.flush()
            yield rows


if __name__ == "__main__":
    source, folder, address = sys.argv[1:]
    runner = ReportingRunner(address, model="nano", placement=Placement(concurrency=2, num_cpus=1))
    embed_parquet(source, folder, runner=runner, part_rows=50, dimensions=64)
