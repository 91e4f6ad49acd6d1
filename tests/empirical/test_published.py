from empirical import published

CONFIDENCE = {"primary", "secondary"}


def test_every_published_number_has_its_source_and_how_sure_it_is():
    rows = published.rows()
    assert len(rows) == 14
    assert all(row["source"] and row["confidence"] in CONFIDENCE and row["study"] and row["value"] for row in rows)
