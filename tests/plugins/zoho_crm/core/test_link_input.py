from __future__ import annotations

import csv
import json
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoho_crm.core import link_input
from zoho_crm.core.formatting import safe_csv_cell
from zoho_crm.core.link_input import MAX_PASTED_LINKS, form_links, pasted_links
from zoho_crm.errors import ZohoConfigError

TWO = [("c-1", "d-1"), ("c-2", "d-2")]

READ = {
    "commas": "c-1,d-1\nc-2,d-2",
    "semicolons": "c-1;d-1\nc-2;d-2",
    "tabs": "c-1\td-1\nc-2\td-2",
    "a blank after the comma": "c-1, d-1\nc-2, d-2",
    "spaces around both columns": " c-1 , d-1 \n\tc-2\u00a0, d-2 ",
    "lines of Windows": "c-1,d-1\r\nc-2,d-2\r\n",
    "lines of an old Mac": "c-1,d-1\rc-2,d-2\r",
    "blank lines": "\n\nc-1,d-1\n\n   \nc-2,d-2\n\n",
    "a header": "external_id,related_external_id\nc-1,d-1\nc-2,d-2",
    "a header with semicolons": "external_id;related_external_id\nc-1;d-1\nc-2;d-2",
    "a header with tabs": "external_id\trelated_external_id\nc-1\td-1\nc-2\td-2",
    "a header in capitals and quotes": '"EXTERNAL_ID", "Related_External_ID"\nc-1,d-1\nc-2,d-2',
    "a header the other way round": "related_external_id,external_id\nd-1,c-1\nd-2,c-2",
    "quotes": '"c-1","d-1"\n"c-2",d-2',
    "a mark of the byte order": "\ufeffc-1,d-1\nc-2,d-2",
    "JSON pairs": '[["c-1", "d-1"], ["c-2", "d-2"]]',
    "JSON objects": (
        '\n [{"external_id": "c-1", "related_external_id": "d-1"},'
        ' {"related_external_id": "d-2", "external_id": "c-2"}]'
    ),
}


@pytest.mark.parametrize("text", READ.values(), ids=list(READ))
def test_what_people_paste_is_read(text: str) -> None:
    assert form_links(text) == TWO


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('"a,1",b', [("a,1", "b")], id="a delimiter within quotes"),
        pytest.param('"a ""1""",b', [('a "1"', "b")], id="quotes within quotes"),
        pytest.param("a,1\tb,2", [("a,1", "b,2")], id="commas in ids between tabs"),
        pytest.param(
            "external_id,related_external_id\na;1,b", [("a;1", "b")], id="the delimiter of the header"
        ),
        pytest.param("a,", [("a", "")], id="an id that is missing"),
        pytest.param("{7D},{8E}", [("{7D}", "{8E}")], id="braces of a UUID"),
        pytest.param("007,1e3", [("007", "1e3")], id="text that looks like numbers"),
        pytest.param('" a ",b ', [("a", "b")], id="spaces in quotes"),
        pytest.param("'-abc,'+49", [("-abc", "+49")], id="apostrophes of our CSV files"),
        pytest.param("''=a,'b", [("'=a", "'b")], id="apostrophes of IDs"),
        pytest.param("007,1E3", [("007", "1E3")], id="text that looks like a short number"),
        pytest.param('[["\'-a", "1.5E+15"]]', [("'-a", "1.5E+15")], id="JSON"),
        pytest.param("ä,日本", [("ä", "日本")], id="letters of the world"),
        pytest.param("a\u2028,b", [("a\u2028", "b")], id="a line separator in an id"),
        pytest.param('[[1, "b"]]', [(1, "b")], id="a number in JSON"),
    ],
)
def test_ids_stay_what_they_are(text: str, expected: list[tuple[object, object]]) -> None:
    assert form_links(text) == expected


REFUSED = {
    "one column": ("c-1\nc-2", "links: line 1: 1 column where two are needed"),
    "three columns": ("a,b,c", "links: line 1: 3 columns where two are needed"),
    "a line too short": ("a,b\n\nc", "links: line 3: 1 column where two are needed"),
    "a line of more after a header": (
        "external_id,related_external_id\na,b\nc,d,e",
        "links: line 3: 3 columns where two are needed",
    ),
    "two delimiters that both fit": (
        "a,b;c",
        "links: commas and semicolons both give two columns; put a header",
    ),
    "a header of other names": (
        "external_id,deal_id\na,b",
        "links: the header must be external_id and related",
    ),
    "a header of more names": (
        "external_id,related_external_id,name\na,b,c",
        "links: the header must be external_id and related_external_id, and nothing else",
    ),
    "a number that a spreadsheet shortened": (
        "c-1,d-1\n9.91214E+15,d-2",
        "links: line 2: an ID is a number in scientific notation",
    ),
    "such a number with a comma": (
        '-1,"9,91214E+15"',
        "links: line 1: an ID is a number in scientific notation",
    ),
    "a quote that does not end": ('a,"b', "links: after line 1: unexpected end of data"),
    "text after a quote": ('"a"x,b', "links: after line 1: "),
    "a header alone": ("external_id,related_external_id\n", "links: the list is empty"),
    "an empty list of JSON": ("[]", "links: the list is empty"),
    "broken JSON": (
        '[["a", "b"],\n["c", "d"]',
        "links: not valid JSON: Expecting ',' delimiter in line 2, column 11",
    ),
    "an object of JSON": ('{"external_id": "a", "related_external_id": "b"}', "links: not a list of links"),
    "a stray pair": ('[["a", "b", "c"]]', "links[0]: neither a pair nor an object"),
    "a stray key": (
        '[{"external_id": "a", "related": "b"}]',
        "links[0]: needs external_id and related_external",
    ),
    "a key twice": (
        '[{"external_id": "a", "external_id": "b", "related_external_id": "c"}]',
        "links[0]: needs external_id and related_external_id",
    ),
    "JSON without end": ("[" * 100_000, "links: JSON that cannot be read"),
    "a number without end": (f"[[{'7' * 5000}, 1]]", "links: JSON that cannot be read"),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_read_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ZohoConfigError) as error:
        form_links(text)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("value", [5, 1.5, True, {"external_id": "a"}, b"a,b"], ids=repr)
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ZohoConfigError, match=r"^links(\[0\])?: (not a list of links|neither a pair)"):
        form_links(value)


@pytest.mark.parametrize("value", [None, "", "  \n ", "\ufeff"])
def test_nothing_pasted_is_no_list(value: str | None) -> None:
    assert form_links(value) is None


def test_messages_hold_no_id() -> None:
    with pytest.raises(ZohoConfigError) as error:
        form_links("jane@example.com,deal-1\njoe@example.com")
    assert "example" not in str(error.value)


@pytest.mark.parametrize("kind", ["text", "list"])
def test_no_more_than_ten_thousand_links_are_taken(kind: str) -> None:
    def of(count: int) -> Any:
        links = [[f"c-{number}", "d"] for number in range(count)]
        return links if kind == "list" else "\n".join(",".join(link) for link in links)

    assert len(form_links(of(MAX_PASTED_LINKS)) or ()) == 10_000
    with pytest.raises(ZohoConfigError, match=r"^links: more than 10000 links, the limit"):
        form_links(of(MAX_PASTED_LINKS + 1))


@pytest.mark.parametrize(
    ("text", "read"),
    [("a,b\n" * 1_000_000, 10_002), ("," * 5_000_001, 0)],
    ids=["many links", "long text"],
)
def test_large_text_is_refused_before_it_is_read(
    text: str, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []

    class Counted(StringIO):
        def __next__(self) -> str:
            lines.append(1)
            return super().__next__()

    monkeypatch.setattr(link_input, "StringIO", Counted)
    with pytest.raises(ZohoConfigError):
        form_links(text)
    assert len(lines) <= 2 * read


def test_links_of_a_dag_file_have_no_limit() -> None:
    assert len(pasted_links([["a", "b"]] * 10_001) or ()) == 10_001


def test_links_may_be_objects_or_pairs() -> None:
    given = [{"external_id": "a", "related_external_id": 1}, ["b", None], ("c", "d")]
    assert pasted_links(given) == [("a", 1), ("b", None), ("c", "d")]
    assert pasted_links([]) == []
    assert pasted_links(None) is None


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: bool(text.strip())
)
CELLS = IDS.filter(lambda text: text == text.strip(" \t\u00a0"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(",;\t"))
@example([("-abc", "+49"), ("'-abc", "''"), ("c;=1+1", "\uff1d1+1"), ("c;\"'=1", "'c;'")], ",")
def test_ids_in_our_csv_files_are_read_back(links: list[tuple[str, str]], delimiter: str) -> None:
    text = StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(
        [("external_id", "related_external_id"), *([safe_csv_cell(each) for each in link] for link in links)]
    )
    assert form_links(text.getvalue()) == links


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5))
def test_what_a_program_writes_as_json_is_read_back(links: list[tuple[str, str]]) -> None:
    assert form_links(json.dumps(links)) == links


@given(st.text(st.sampled_from('[]{}",;\t\n abc\r')))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ZohoConfigError):
        links = form_links(text)
        assert links is None or links
