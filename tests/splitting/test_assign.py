"""Nothing leaks, nothing moves."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.config.options import SplitConfig, SplitStrategy
from brightfield.core.codes import Split
from brightfield.core.errors import SplitError
from brightfield.core.schema import SPLITS
from brightfield.core.tables import read_table, write_table
from brightfield.splitting.assign import assign
from brightfield.splitting.challenge_2019 import CHALLENGE_2019_TEST, CHALLENGE_2019_TRAIN
from brightfield.splitting.groups import draw, fold_of, links, side_of
from brightfield.splitting.proof import MAX_DEVIATION_POINTS, prove
from brightfield.splitting.salt import search_salt
from repositories import REPOSITORY

RULES = SplitConfig(salt="a")


def _cells(n: int = 60, per_donor: int = 2, **columns: object) -> pd.DataFrame:
    """`n` selected cells, `per_donor` of each donor; every cell has images of its own."""
    frame = pd.DataFrame({"specimen_id": range(1000, 1000 + n)})
    frame["donor_id"] = [1 + k // per_donor for k in range(n)]
    frame["image_series_id"] = pd.array([7000 + k for k in range(n)], "Int64")
    frame["group"] = None
    frame["species"], frame["line"] = "Mus musculus", [f"Line-{k % 3}" for k in (frame["donor_id"])]
    frame["reconstruction_type"] = ["full" if k % 2 else "dendrite-only" for k in range(n)]
    frame["dendrite_type"], frame["layer"], frame["selected"], frame["reason"] = "spiny", "5", True, None
    return frame.assign(**columns)


def _mouse(shared_data: Path, year: str) -> pd.DataFrame:
    """The reconstructed mouse cells of the website's table, as the `cells` table has them."""
    table = pd.read_csv(shared_data / "cells" / f"cell_types_specimen_details_{year}.csv", dtype=str)
    table = table[(table["donor__species"] == "Mus musculus") & table["nr__reconstruction_type"].notna()]
    return pd.DataFrame(
        {
            "specimen_id": table["specimen__id"].astype(int),
            "donor_id": table["donor__id"].astype(int),
            "image_series_id": pd.array([None] * len(table), "Int64"),
            "group": None,
            "species": table["donor__species"],
            "line": table["line_name"],
            "reconstruction_type": table["nr__reconstruction_type"],
            "dendrite_type": table["tag__dendrite_type"],
            "layer": table["structure__layer"],
            "selected": True,
            "reason": None,
        }
    ).reset_index(drop=True)


def _donors_on(side: Split, rules: SplitConfig = RULES, *, fold: int | None = None) -> list[int]:
    return [d for d in range(1, 400) if side_of(str(d), rules) is side and fold in (None, fold_of(str(d), rules))]


# -------------------------------------------------------------------------------------------------------------------- hash


def test_the_draw_is_the_published_formula() -> None:
    digest = hashlib.sha256(b"salt|42").digest()
    assert draw("salt", "42") == pytest.approx(sum(byte / 256 ** (k + 1) for k, byte in enumerate(digest[:8])))


def test_sides_follow_the_fractions() -> None:
    rules = SplitConfig(salt="x", test=0.2, val=0.1)
    sides = pd.Series([side_of(str(k), rules) for k in range(20_000)]).value_counts(normalize=True)
    assert sides[Split.TEST] == pytest.approx(0.2, abs=0.01)
    assert sides[Split.VAL] == pytest.approx(0.1, abs=0.01)


def test_the_sides_are_the_published_formula() -> None:
    rules = SplitConfig(salt="x", val_salt="y", test=0.2, val=0.1)
    for name in map(str, range(2000)):
        test, val = (int(hashlib.sha256(f"{salt}|{name}".encode()).hexdigest()[:16], 16) / 2**64 for salt in "xy")
        assert side_of(name, rules) == ("test" if test < 0.2 else "val" if val * 0.8 < 0.1 else "train")
        assert side_of(name, replace(rules, val_salt="")) == ("test" if test < 0.2 else "val" if test < 0.1 + 0.2 else "train")


def test_another_salt_of_val_leaves_test_as_it_is() -> None:
    one, other = ([side_of(str(k), replace(RULES, val_salt=salt)) for k in range(2000)] for salt in "vw")
    assert [side is Split.TEST for side in one] == [side is Split.TEST for side in other]
    assert one != other


def test_folds_are_independent_of_sides() -> None:
    groups = [str(k) for k in range(20_000)]
    table = pd.crosstab([side_of(g, RULES) for g in groups], [fold_of(g, RULES) for g in groups], normalize="index")
    assert (table - 1 / RULES.n_folds).abs().to_numpy().max() < 0.02


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 59), max_size=20), st.sampled_from([SplitStrategy.donor_hash, SplitStrategy.kfold]))
def test_removing_cells_moves_none_of_the_others(gone: set[int], strategy: SplitStrategy) -> None:
    rules = replace(RULES, strategy=strategy)
    whole = assign(_cells(), rules)
    part = assign(_cells().drop(index=sorted(gone)), rules)
    pd.testing.assert_frame_equal(part, whole.drop(index=sorted(gone)))


def test_the_order_of_the_rows_does_not_matter() -> None:
    cells = _cells()
    shuffled = cells.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(assign(shuffled, RULES).sort_index(), assign(cells, RULES))


def test_the_result_is_a_table_of_the_contract(tmp_path: Path) -> None:
    cells = _cells()
    cells.loc[3, ["selected", "reason"]] = [False, "no image stack"]
    write_table(SPLITS, assign(cells, RULES), tmp_path)
    assert len(read_table(SPLITS, tmp_path)) == 60


# ------------------------------------------------------------------------------------------------------------------ groups


def test_cells_of_a_donor_stay_together() -> None:
    splits = assign(_cells(), RULES).assign(donor=_cells()["donor_id"])
    assert len(splits[["donor", "split"]].drop_duplicates()) == splits["donor"].nunique()
    assert set(splits["split"]) == {"train", "val", "test"}


def test_a_shared_series_joins_donors_of_one_side_and_moves_nobody() -> None:
    first, second = _donors_on(Split.TRAIN, fold=2)[:2]
    cells = _cells(2, donor_id=[first, second])
    apart = assign(cells, RULES)
    joined = assign(cells.assign(image_series_id=77), RULES)
    assert joined["group_id"].tolist() == [str(first)] * 2
    assert joined[["split", "fold"]].equals(apart[["split", "fold"]])


@pytest.mark.parametrize("shared", ["image series", "SWC sha256"])
def test_a_link_between_sides_stops_and_names_the_cells_and_the_ways_out(shared: str) -> None:
    tested, trained = _donors_on(Split.TEST)[0], _donors_on(Split.TRAIN)[0]
    cells = _cells(2, donor_id=[tested, trained])
    hashes = {1000: "abc", 1001: "abc"} if shared == "SWC sha256" else {}
    if not hashes:
        cells["image_series_id"] = 77
    with pytest.raises(SplitError) as caught:
        assign(cells, RULES, swc_sha256=hashes)
    message = str(caught.value)
    low, high = sorted([tested, trained])
    for part in ("1000", "1001", shared, "test", "train", f"split.follow=[{high}:{low}]", "take the linking cells out", "split.salt"):
        assert part in message


def test_a_link_between_folds_stops_too() -> None:
    cells = _cells(2, donor_id=[_donors_on(Split.TRAIN, fold=0)[0], _donors_on(Split.TRAIN, fold=1)[0]], image_series_id=77)
    with pytest.raises(SplitError, match="fold 0"):
        assign(cells, RULES)


def test_following_resolves_a_conflict_and_keeps_the_formula() -> None:
    tested, trained = _donors_on(Split.TEST)[0], _donors_on(Split.TRAIN)[0]
    cells = _cells(3, donor_id=[tested, trained, trained], image_series_id=[77, 77, 78])
    for follower, leader in ((tested, trained), (trained, tested)):
        rules = replace(RULES, follow=[f"{follower}:{leader}"])
        splits = assign(cells, rules)
        assert splits["group_id"].tolist() == [str(leader)] * 3
        assert splits["split"].tolist() == [side_of(str(leader), rules).value] * 3


def test_cells_that_their_owner_groups_stay_together_whatever_their_donors_draw() -> None:
    tested, trained = _donors_on(Split.TEST)[0], _donors_on(Split.TRAIN)[0]
    alone = assign(_cells(2, donor_id=[tested, trained]), RULES)
    assert alone["split"].tolist() == ["test", "train"]
    for name in "abcdefgh":
        cells = _cells(4, donor_id=[tested, trained, trained, 999], group=[name, name, None, None])
        splits = assign(cells, RULES)
        assert splits["group_id"].tolist() == [f"group {name}"] * 3 + ["999"]
        assert set(splits["split"][:3]) == {side_of(f"group {name}", RULES).value}
        later = assign(cells.assign(donor_id=[tested, trained, 998, 999], group=[name, name, name, None]), RULES)
        assert later["split"].tolist()[:2] == splits["split"].tolist()[:2]
    broken = cells.assign(split=["test", "train", "train", "train"], fold=pd.array([None] * 4, "Int32"), group_id=["1", "2", "2", "3"])
    assert any("owner's group h is in several splits: cells 1000 (test), 1001 (train)" in leak for leak in prove(broken, RULES).leaks)


def test_groups_that_share_a_file_and_differ_in_their_sides_stop() -> None:
    names = {side_of(f"group {name}", RULES): name for name in "abcdefghijklmnopqrstuvwxyz"}
    cells = _cells(2, group=[names[Split.TEST], names[Split.TRAIN]], image_series_id=77, donor_id=[1, 2])
    with pytest.raises(SplitError, match=r"(?s)group . *: test.*Give their cells one group"):
        assign(cells, RULES)


def test_a_cell_that_is_not_selected_links_nobody() -> None:
    cells = _cells(2, donor_id=[_donors_on(Split.TEST)[0], _donors_on(Split.TRAIN)[0]], image_series_id=77)
    cells.loc[1, ["selected", "reason"]] = [False, "no image stack"]
    splits = assign(cells, RULES)
    assert splits["split"].tolist() == ["test", "excluded"]


def test_links_run_through_third_donors() -> None:
    donors = _donors_on(Split.TRAIN, fold=1)[:3]
    cells = _cells(4, donor_id=[donors[0], donors[1], donors[1], donors[2]], image_series_id=[1, 1, 2, 3])
    splits = assign(cells, RULES, swc_sha256={1002: "f", 1003: "f"})
    assert len(set(splits["group_id"])) == 1
    assert [link.kind for link in links(cells, {1002: "f", 1003: "f"})] == ["SWC sha256", "image series"]


@pytest.mark.parametrize("follow", [["7"], ["7:"], ["a:b"], ["1:2", "2:3"]])
def test_a_follow_list_that_makes_no_sense_is_refused(follow: list[str]) -> None:
    with pytest.raises(SplitError, match=r"split\.follow"):
        assign(_cells(), replace(RULES, follow=follow))


# -------------------------------------------------------------------------------------------------------------- exclusions


def _alignment(cells: pd.DataFrame, grade: str, reason: str | None = None) -> pd.DataFrame:
    return pd.DataFrame({"specimen_id": cells["specimen_id"], "grade": grade, "reason": reason})


def test_excluded_cells_keep_their_row_group_and_reason() -> None:
    cells = _cells()
    cells.loc[4, ["selected", "reason"]] = [False, "no image stack"]
    splits = assign(cells, RULES)
    assert splits.loc[4, ["split", "reason", "group_id"]].tolist() == ["excluded", "no image stack", "3"]
    assert splits.loc[4, "fold"] is pd.NA
    assert splits.drop(index=4)["reason"].isna().all()


def test_rejected_cells_and_cells_without_a_verdict_are_excluded() -> None:
    cells = _cells()
    alignment = _alignment(cells, "A").drop(index=1)
    alignment.loc[0, ["grade", "reason"]] = ["rejected", "y flip fits better"]
    splits = assign(cells, RULES, alignment=alignment)
    assert splits["reason"].tolist()[:2] == ["alignment: y flip fits better", "alignment: no alignment verdict"]
    assert splits["split"].tolist()[:2] == ["excluded"] * 2


def test_a_c_cell_may_train_but_not_test() -> None:
    cells = _cells()
    before, after = assign(cells, RULES), assign(cells, RULES, alignment=_alignment(cells, "C"))
    assert (after.loc[before["split"] == "test", "split"] == "excluded").all()
    assert (after.loc[before["split"] != "test", "split"] == before.loc[before["split"] != "test", "split"]).all()
    assert "test cells need B" in after.loc[before["split"] == "test", "reason"].iloc[0]


# -------------------------------------------------------------------------------------------------------------- strategies


def test_kfold_turns_and_test_stays() -> None:
    turns = [assign(_cells(), replace(RULES, strategy=SplitStrategy.kfold, fold=k)) for k in range(5)]
    assert len({tuple(t["split"] == "test") for t in turns}) == 1
    in_val = sum((t["split"] == "val").astype(int) for t in turns)
    assert (in_val == (turns[0]["split"] != "test")).all()


def test_stratified_keeps_groups_and_balances() -> None:
    cells = _cells(240, layer=["5" if k % 4 < 2 else "4" for k in range(240)], line="A")  # lines are not among what it balances
    rules = replace(RULES, strategy=SplitStrategy.stratified)
    splits = assign(cells, rules)
    proof = prove(cells.drop(columns="reason").merge(splits, on="specimen_id"), rules)
    assert proof.leaks == ()
    assert proof.max_deviation_points < 5
    pd.testing.assert_frame_equal(splits, assign(cells, rules))


def test_stratified_needs_enough_groups() -> None:
    with pytest.raises(SplitError, match="at least 7 groups"):
        assign(_cells(4), replace(RULES, strategy=SplitStrategy.stratified))


def test_a_held_out_line_is_test_and_nothing_else_is() -> None:
    cells = _cells()
    splits = assign(cells, replace(RULES, strategy=SplitStrategy.ood_line, hold_out_line="Line-1"))
    assert ((splits["split"] == "test") == (cells["line"] == "Line-1")).all()
    hashed = assign(cells, RULES)
    kept = (cells["line"] != "Line-1") & (hashed["split"] != "test")
    assert (splits.loc[kept, "split"] == hashed.loc[kept, "split"]).all()


def test_a_held_out_species_is_test() -> None:
    cells = _cells()
    cells.loc[:9, "species"] = "Homo Sapiens"
    splits = assign(cells, replace(RULES, strategy=SplitStrategy.species, hold_out_species="Homo Sapiens"))
    assert ((splits["split"] == "test") == (cells["species"] == "Homo Sapiens")).all()


def test_holding_out_nothing_is_refused_with_the_choices() -> None:
    with pytest.raises(SplitError, match="Line-0, Line-1, Line-2"):
        assign(_cells(), replace(RULES, strategy=SplitStrategy.ood_line, hold_out_line="Sst"))


def test_the_challenge_lists_keep_the_cell_that_is_in_both_out_of_train() -> None:
    ids = sorted(CHALLENGE_2019_TEST | CHALLENGE_2019_TRAIN)
    assert (len(CHALLENGE_2019_TRAIN), len(CHALLENGE_2019_TEST), len(ids)) == (105, 10, 114)
    cells = _cells(116, per_donor=1, specimen_id=[*ids, 1, 2])
    cells.loc[cells["specimen_id"] == ids[0], "donor_id"] = cells.loc[cells["specimen_id"] == 741428906, "donor_id"].item()
    splits = assign(cells, replace(RULES, strategy=SplitStrategy.challenge)).set_index("specimen_id")
    assert set(splits.index[splits["split"] == "test"]) == CHALLENGE_2019_TEST
    assert splits.loc[[1, 2, ids[0]], "split"].tolist() == ["excluded"] * 3
    assert "shares donor" in splits.loc[ids[0], "reason"]
    assert set(splits.drop(index=[1, 2, ids[0], *CHALLENGE_2019_TEST])["split"]) == {"train", "val"}


@pytest.mark.parametrize("fault", [{"fold": 5}, {"test": 0.6, "val": 0.4}, {"min_test_grade": "D"}])
def test_rules_that_make_no_sense_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(SplitError, match="fold < n_folds"):
        assign(_cells(), replace(RULES, **fault))


# ------------------------------------------------------------------------------------------------------------------- proof


def test_one_moved_row_is_a_leak_of_its_group_and_donor() -> None:
    cells = _cells()
    table = cells.drop(columns="reason").merge(assign(cells, RULES), on="specimen_id").assign(skeleton_sha256="x")
    table["skeleton_sha256"] = [f"sha-{k}" for k in range(len(table))]
    assert prove(table, RULES).leaks == ()
    row = table.index[table["split"] == "train"][0]
    table.loc[row, "split"] = "test"
    leaks = prove(table, RULES).leaks
    assert [leak.split(" ")[0] for leak in leaks] == ["group", "donor"]
    assert str(table.loc[row, "specimen_id"]) in leaks[0]


def test_the_counts_add_up() -> None:
    cells = _cells()
    table = cells.drop(columns="reason").merge(assign(cells, RULES), on="specimen_id").assign(path_axon_um=2.0, voxels_axon=3)
    counts = prove(table, RULES).counts
    assert counts["cells"].sum() == 60
    assert counts["donors"].sum() == 30
    assert (counts["path_um"] == 2.0 * counts["cells"]).all()
    assert (counts["voxels"] == 3 * counts["cells"]).all()


def test_the_search_finds_what_trying_all_of_them_finds() -> None:
    cells = _cells(90, layer=["5" if k % 3 else "4" for k in range(90)])
    found = search_salt(cells, RULES, prefix="t", candidates=40)

    def strata(salt: str, val_salt: str) -> pd.DataFrame:
        rules = replace(RULES, salt=salt, val_salt=val_salt)
        return prove(cells.drop(columns="reason").merge(assign(cells, rules), on="specimen_id"), rules).strata

    names = [f"t{k}" for k in range(40)]
    of_test = {name: (strata(name, "v")["test"] - RULES.test).abs().max() for name in names}
    assert found.salt == min(names, key=lambda name: round(of_test[name], 9))
    of_val = {name: strata(found.salt, name) for name in names}
    missed = {
        name: max((of["val"] - RULES.val).abs().max(), (of["train"] - (1 - RULES.test - RULES.val)).abs().max())
        for name, of in of_val.items()
    }
    assert found.val_salt == min(names, key=lambda name: round(missed[name], 9))
    assert found.deviation_points == pytest.approx(of_val[found.val_salt]["deviation_points"].max())


def test_a_line_is_a_stratum() -> None:
    cells = _cells(80, per_donor=1, line=["A"] * 40 + ["B"] * 40)
    cells["split"] = (["train"] * 25 + ["val"] * 8 + ["test"] * 7) + (["train"] * 28 + ["val"] * 6 + ["test"] * 6)
    strata = prove(cells.assign(group_id=cells["donor_id"], fold=pd.array([None] * 80, "Int32")), RULES).strata.set_index("stratum")
    assert strata.loc[["line=A", "line=B"], "deviation_points"].tolist() == [7.5, 0.0]


def test_a_search_over_too_few_cells_is_refused() -> None:
    with pytest.raises(SplitError, match="20 cells"):
        search_salt(_cells(10), RULES)


# -------------------------------------------------------------------------------------------------------------- real cells


@pytest.mark.real
def test_the_real_table_of_2023_leaks_nothing_and_every_stratum_is_within_five_points(shared_data: Path) -> None:
    cells = _mouse(shared_data, "2023")
    assert (len(cells), cells["donor_id"].nunique()) == (509, 372)
    rules = SplitConfig()
    proof = prove(cells.drop(columns="reason").merge(assign(cells, rules), on="specimen_id"), rules)
    assert proof.leaks == ()
    assert proof.max_deviation_points <= MAX_DEVIATION_POINTS == 5
    assert len(proof.strata) == 1 + 10 + 9 + 8
    lines = proof.strata[proof.strata["stratum"].str.startswith("line=")]
    assert (lines[["train", "val", "test"]] > 0).all(axis=None)
    assert proof.counts.set_index("split").loc["test", "full"] >= 20


@pytest.mark.real
def test_from_2020_to_2023_no_cell_moves(shared_data: Path) -> None:
    old, new = (assign(_mouse(shared_data, year), SplitConfig()).set_index("specimen_id") for year in ("2020-03", "2023"))
    assert (len(old), len(new)) == (485, 509)
    kept = old.index.intersection(new.index)
    pd.testing.assert_frame_equal(new.loc[kept], old.loc[kept])


@pytest.mark.real
def test_the_table_in_the_documentation_is_what_comes_out(shared_data: Path) -> None:
    page = (REPOSITORY / "docs" / "explanation" / "splits.md").read_text()
    cells, rules = _mouse(shared_data, "2023"), SplitConfig()
    proof = prove(cells.drop(columns="reason").merge(assign(cells, rules), on="specimen_id"), rules)
    assert rules.salt in page
    assert rules.val_salt in page
    for row in proof.strata.to_dict("records"):
        shares = " | ".join(f"{100 * row[side]:.1f}" for side in ("train", "val", "test"))
        assert f"| {row['stratum']} | {row['cells']} | {shares} | {row['deviation_points']:.1f} |" in page
    for row in proof.counts.to_dict("records"):
        assert f"| {row['split']} | {row['cells']} | {row['donors']} | {row['full']} |" in page
