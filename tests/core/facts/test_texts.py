import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest

from core.facts import texts
from core.facts.texts import DATE, FULL_WIDTH, TRUTH, UNICODE, WHOLE


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        (" 1982.0 ", "1982.0", []),
        (1982, "1982", []),
        (1982.0, "1982", [WHOLE]),
        (-0.0, "0", [WHOLE]),
        (19.5, "19.5", []),
        (1e22, "1e+22", []),
        (Decimal("1982.00"), "1982", [WHOLE]),
        (Decimal("1982"), "1982", []),
        (Decimal("12.50"), "12.50", []),
        (True, "true", [TRUTH]),
        (False, "false", [TRUTH]),
        (date(1982, 3, 4), "1982-03-04", [DATE]),
        (datetime(1982, 3, 4), "1982-03-04", [DATE]),
        (datetime(1982, 3, 4, 5, 6, tzinfo=UTC), "1982-03-04T05:06:00+00:00", [DATE]),
        (time(5, 6), "05:06:00", [DATE]),
        ("Rene\u0301", "Ren\u00e9", [UNICODE]),
        ("\ufeffso\u00adft\u200b \u200ename\u2060", "soft name", [UNICODE]),
        ("a\u200db\u200c", "ab", [UNICODE]),
        ("\u200b \u00ad", "", [UNICODE]),
        ("\uff34okyo", "\uff34okyo", [FULL_WIDTH]),
        ("\u6771\u4eac\uff1f", "\u6771\u4eac\uff1f", []),
        # Letters of their own: a joiner of Persian, of Hindi, of an emoji.
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", []),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937", []),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680", []),
    ],
)
def test_a_value_is_written_as_one_would_write_it_and_what_that_changed_is_said(value, text, found):
    assert texts.written(value) == (text, found), json.dumps(text)


@pytest.mark.parametrize("value", [None, [], {}, b"x", timedelta(1), float("nan"), float("inf"), Decimal("NaN")])
def test_what_has_no_text_is_refused(value):
    with pytest.raises(ValueError, match="neither text"):
        texts.written(value)
