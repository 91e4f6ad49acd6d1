import numpy as np
import pytest

from core.errors import InputError
from empirical.pieces import UNKEPT, Pieces


def test_what_is_kept_is_not_made_again_and_comes_back_the_same(tmp_path):
    made = []

    def array():
        made.append("array")
        return np.array([[0.1, np.nan], [-np.inf, 3e-300]])

    def arrays():
        made.append("arrays")
        return {"one": np.arange(3), "other": np.array([[True, False]])}

    for pieces in (Pieces(tmp_path / "new"), Pieces(tmp_path / "new")):
        np.testing.assert_array_equal(pieces.array("one", array), array())
        for name, found in pieces.under("inner").arrays("one", arrays).items():
            np.testing.assert_array_equal(found, arrays()[name])
    assert made == [
        "array",
        "array",
        *["arrays"] * 3,
        "array",
        *["arrays"] * 2,
    ]
    pieces.forget()
    assert not (tmp_path / "new").exists()


def test_an_interrupted_piece_leaves_nothing(tmp_path):
    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pieces(tmp_path).array("one", broken)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_all_is_made_and_nothing_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [int(UNKEPT.under("a").array("one", lambda n=n: np.array(n))) for n in range(2)] == [0, 1]
    UNKEPT.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        Pieces(tmp_path / "file" / "in").array("one", lambda: np.zeros(1))
