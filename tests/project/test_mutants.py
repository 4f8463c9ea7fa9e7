"""Check that the list of planted bugs fits the code. `make mutants` plants them."""

from scripts.mutants import read_list


def test_every_entry_fits_the_code() -> None:
    mutants = read_list()
    assert [f"{mutant.name}: {why}" for mutant in mutants if (why := mutant.misfit())] == []
    assert len({mutant.name for mutant in mutants}) == len(mutants)
