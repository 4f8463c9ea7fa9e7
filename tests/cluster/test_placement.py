"""Test the resources of actors, on clusters that exist only as lists of their nodes' resources."""

from typing import Any

import pytest

from mlx_qwen_embeddings.ray import Placement, placement

CPUS: list[dict[str, float]] = [{}, {"CPU": 4.0}, {"CPU": 8.0}]
GPUS: list[dict[str, float]] = [*CPUS, {"CPU": 2.0, "GPU": 2.0}]


@pytest.fixture
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the cluster's nodes by those of the parameter."""
    monkeypatch.setattr(placement, "_nodes", lambda: request.param)


@pytest.mark.parametrize("concurrency", [0, -1, (0, 4), (3, 2)])
def test_impossible_numbers_of_actors_are_refused(concurrency: Any) -> None:
    with pytest.raises(ValueError, match=r"^concurrency=.*: use a number of actors from 1"):
        Placement(concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [None, 1, (1, 1), (2, 8)])
def test_other_numbers_of_actors_are_accepted(concurrency: Any) -> None:
    assert Placement(concurrency=concurrency).concurrency == concurrency


@pytest.mark.parametrize(
    ("nodes", "places", "resources"),
    [
        (CPUS, {}, {"num_cpus": 3}),
        (CPUS, {"num_cpus": 0.5}, {"num_cpus": 0.5}),
        (GPUS, {}, {"num_gpus": 1.0}),
        (GPUS, {"num_cpus": 2}, {"num_gpus": 1.0, "num_cpus": 2}),
        (GPUS, {"num_cpus": 0}, {"num_gpus": 1.0, "num_cpus": 0}),
        (GPUS, {"num_gpus": 0.5}, {"num_gpus": 0.5}),
        (GPUS, {"num_gpus": 0}, {"num_cpus": 1}),
    ],
    indirect=["nodes"],
)
@pytest.mark.usefixtures("nodes")
def test_an_actor_gets_a_gpu_where_there_is_one_or_all_cpus_but_one_of_the_smallest_node(
    places: dict[str, Any], resources: dict[str, float]
) -> None:
    placed = Placement(**places)
    assert placed.resources() == resources
    placed.check_fits()


@pytest.mark.parametrize(
    ("nodes", "places", "message"),
    [
        (CPUS, {"num_cpus": 9}, "an actor of num_cpus=9: the largest has 8 CPUs, so ask for less"),
        (CPUS, {"num_gpus": 1}, "an actor of num_gpus=1: the largest has 0 GPUs"),
        # The CPUs of another node do not help.
        (GPUS, {"num_cpus": 3}, "an actor of num_gpus=1 and num_cpus=3: the largest has 2 GPUs and 2 CPUs"),
        ([{}], {}, "an actor of num_cpus=1: the largest has 0 CPUs"),
    ],
    indirect=["nodes"],
)
@pytest.mark.usefixtures("nodes")
def test_an_actor_too_large_for_every_node_is_refused(places: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^no node of the cluster can hold {message}"):
        Placement(concurrency=1, **places).check_fits()


@pytest.mark.parametrize(
    ("nodes", "places"), [(CPUS, {"num_cpus": 0}), (GPUS, {"num_cpus": 0, "num_gpus": 0})], indirect=["nodes"]
)
@pytest.mark.usefixtures("nodes")
def test_an_actor_without_resources_is_refused(places: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_cpus=0 is for actors with a GPU, and these have none"):
        Placement(**places).resources()
