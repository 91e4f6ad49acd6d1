import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.numbering import numbered


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)))
def test_numbers_are_those_of_numpy(texts):
    expected = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)[1]
    found = numbered(texts)
    assert found.dtype == expected.dtype and found.tolist() == expected.tolist()


def test_one_long_text_costs_the_others_nothing():
    texts = [f"name {i % 100}" for i in range(10_000)] + ["a" * 10_000]
    tracemalloc.start()
    numbered(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # as an array of texts: 400 MB
