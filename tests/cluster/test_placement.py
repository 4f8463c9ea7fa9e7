"""What an actor is given, on clusters that are only described."""

from typing import Any

import pytest

from mlx_qwen_embeddings.ray import Placement, placement

CPUS: list[dict[str, float]] = [{}, {"CPU": 4.0}, {"CPU": 8.0}]
GPUS: list[dict[str, float]] = [*CPUS, {"CPU": 2.0, "GPU": 2.0}]


@pytest.fixture
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cluster have the nodes of the parameter."""
    monkeypatch.setattr(placement, "_nodes", lambda: request.param)


@pytest.mark.parametrize("concurrency", [0, -1, (0, 4), (3, 2)])
def test_numbers_of_actors_that_mean_nothing_are_refused(concurrency: Any) -> None:
    with pytest.raises(ValueError, match=r"^concurrency=.*: give a number of actors from 1 on"):
        Placement(concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [None, 1, (1, 1), (2, 8)])
def test_others_are_taken(concurrency: Any) -> None:
    assert Placement(concurrency=concurrency).concurrency == concurrency


@pytest.mark.parametrize(
    ("nodes", "places", "resources", "actors"),
    [
        (CPUS, {}, {"num_cpus": 3}, 1 + 1 + 2),
        (CPUS, {"num_cpus": 0.5}, {"num_cpus": 0.5}, 1 + 8 + 16),
        (GPUS, {}, {"num_gpus": 1.0}, 1 + 2),
        (GPUS, {"num_cpus": 2}, {"num_gpus": 1.0, "num_cpus": 2}, 1 + 1),
        (GPUS, {"num_cpus": 0}, {"num_gpus": 1.0, "num_cpus": 0}, 1 + 2),
        (GPUS, {"num_gpus": 0.5}, {"num_gpus": 0.5}, 1 + 4),
        (GPUS, {"num_gpus": 0}, {"num_cpus": 1}, 1 + 4 + 8 + 2),
    ],
    indirect=["nodes"],
)
@pytest.mark.usefixtures("nodes")
def test_a_gpu_is_taken_where_there_is_one_else_all_cpus_of_the_smallest_node_but_one(
    places: dict[str, Any], resources: dict[str, float], actors: int
) -> None:
    placed = Placement(**places)
    assert placed.resources() == resources
    assert placed.wanted() == actors
    placed.check_fits()


@pytest.mark.parametrize(
    ("nodes", "places", "message"),
    [
        (CPUS, {"num_cpus": 9}, "an actor of num_cpus=9: the largest has 8 CPUs, so ask for less"),
        (CPUS, {"num_gpus": 1}, "an actor of num_gpus=1: the largest has 0 GPUs"),
        # The CPUs of another node are of no use.
        (GPUS, {"num_cpus": 3}, "an actor of num_gpus=1 and num_cpus=3: the largest has 2 GPUs and 2 CPUs"),
        ([{}], {}, "an actor of num_cpus=1: the largest has 0 CPUs"),
    ],
    indirect=["nodes"],
)
@pytest.mark.usefixtures("nodes")
def test_an_actor_that_no_node_can_hold_is_refused(places: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^no node of the cluster can hold {message}"):
        Placement(concurrency=1, **places).check_fits()


@pytest.mark.parametrize(
    ("nodes", "places"), [(CPUS, {"num_cpus": 0}), (GPUS, {"num_cpus": 0, "num_gpus": 0})], indirect=["nodes"]
)
@pytest.mark.usefixtures("nodes")
def test_an_actor_that_is_given_nothing_is_refused(places: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_cpus=0 is for actors with a GPU, and these have none"):
        Placement(**places).wanted()


def test_what_is_settled_stays_when_a_node_comes_or_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_nodes", lambda: GPUS)
    with_gpu = Placement(num_cpus=0).settled()
    monkeypatch.setattr(placement, "_nodes", lambda: CPUS)
    without = Placement().settled()
    assert with_gpu.resources() == {"num_gpus": 1.0, "num_cpus": 0}
    assert with_gpu.wanted() == 1
    monkeypatch.setattr(placement, "_nodes", lambda: GPUS)
    assert without.resources() == {"num_cpus": 3}
    assert without.wanted() == 1 + 1 + 2
