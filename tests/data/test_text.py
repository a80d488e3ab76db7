"""CSV and TSV files as people's programs write them: without a line of names, with quotes that are never closed."""

import csv

import pytest

from neocog.data import open_source
from neocog.data.text import table_rows
from neocog.errors import DataError

NAMED = "text,label\n"


def rows(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    problems, notes = [], []
    return [tuple(row.values()) for row in table_rows(tmp_path / name, problems, notes)], problems, notes


@pytest.mark.parametrize("head", [("", "review", "sentiment"), None])
def test_numbers_of_rows_are_nothing_to_learn(tmp_path, head):
    body = [(i, f"a film of {i} and some minutes", "fine" if i % 3 else "bad") for i in range(30)]
    lines = [",".join(map(str, row)) for row in ([head] if head else []) + body]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = open_source(tmp_path / "t.csv")
    assert source.classes == ("bad", "fine") and len(source) == 30


@pytest.mark.parametrize(
    "first", ["good film,pos", "a film that I have seen too often,neg", "good film,7", "film.jpg,cat"]
)
def test_the_first_row_is_kept_without_a_line_of_names(tmp_path, first):
    below = "bad film,2.5\nfine film,12\n" if first[-1] == "7" else "bad film,neg\nfine film,pos\n"
    found, _, notes = rows(tmp_path, f"{first}\n{below}")
    assert found[0] == tuple(first.split(",")) and len(found) == 3
    assert notes == ["t.csv does not begin with the names of its columns: its first line is a row, too"]


@pytest.mark.parametrize("first", ["text,label", "my text,how it is", "path,2019", ",text", "text,pos", "x,y"])
def test_a_line_of_names_is_no_row(tmp_path, first):
    of = ["pos", ""] if first == "text,pos" else ["pos", "neg"]  # a column that marks rows with its own name
    found, _, notes = rows(tmp_path, f"{first}\ngood film,{of[0]}\nbad film,{of[1]}\n")
    assert found == [("good film", of[0]), ("bad film", of[1])] and not notes


def test_two_files_one_after_the_other_repeat_the_names(tmp_path):
    found, _, notes = rows(tmp_path, f"{NAMED}good film,pos\n{NAMED}bad film,neg\n")
    assert found[0] == ("good film", "pos") and not notes


def test_short_texts_without_names_say_which_columns_there_are(tmp_path):
    (tmp_path / "t.csv").write_text("good film,pos\nbad film,neg\nfine film,pos\nodd film,neg\n")
    with pytest.raises(DataError, match=r"or with sentences among column 1, column 2; name it: .* text="):
        open_source(tmp_path / "t.csv")
    source = open_source(tmp_path / "t.csv", columns={"text": "column 1", "label": "column 2"})
    assert len(source) == 4 and source.read(0) == "good film" and source.classes == ("neg", "pos")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (3, 'good film,pos\n"bad film,neg\nfine film,pos\n'),  # up to the end
        (4, 'good film,pos\n\n"bad film,neg\nfine film,pos\n"a, b",neg\n'),  # up to the next quote
        (3, 'good film,pos\n"bad film,neg'),  # the last line
        (3, 'good film,pos\n"' + "bad film,neg\n" * 100),  # more than a cell may hold
    ],
)
def test_an_open_quote_is_an_error_with_its_line(tmp_path, line, text):
    most = csv.field_size_limit(1000)
    try:
        with pytest.raises(DataError, match=rf"t.csv, line {line}: a quote is opened there and not closed .* twice"):
            rows(tmp_path, NAMED + text)
    finally:
        csv.field_size_limit(most)


def test_quotes_that_are_closed_may_hold_lines_and_quotes(tmp_path):
    text = '"two\nlines",pos\n"say ""no"", then go",neg\n5" wide,pos\n"a" b,neg\n'
    found, problems, _ = rows(tmp_path, NAMED + text)
    assert [one for one, _ in found] == ["two\nlines", 'say "no", then go', '5" wide', "a b"] and not problems


def test_between_tabs_an_open_quote_is_a_sign(tmp_path):
    found, _, _ = rows(tmp_path, 'text\tlabel\n"good film\tpos\nbad "old" film\tneg\n"so" it is\tpos\n', "t.tsv")
    assert [one for one, _ in found] == ['"good film', 'bad "old" film', "so it is"]


def test_a_row_with_too_many_cells_is_said_and_left_out(tmp_path):
    text = f"{NAMED}good film it was,pos\nbad, film it was,neg\nfine film it was,neg,\n"
    (tmp_path / "t.csv").write_text(text)
    source = open_source(tmp_path / "t.csv")
    assert [source.read(i) for i in range(len(source))] == ["good film it was", "fine film it was"]
    assert source.problems[0].key == "t.csv, line 3"
    assert any("1 row of the table was skipped" in note for note in source.notes)
    (tmp_path / "t.csv").write_text(f"{NAMED}a,b,c\nd,e,f\n")
    with pytest.raises(DataError, match=r"no rows with texts in t.csv; the first is t.csv, line 2: more cells than"):
        open_source(tmp_path / "t.csv", columns={"text": "text"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [";", "\t", ",", "|"])
def test_what_excel_is_told_in_the_first_line_is_no_row(tmp_path, mark, encoding):
    text = f"sep={mark}\r\ntext{mark}label\r\ngood film{mark}pos\r\na{mark}b{mark}c\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    problems = []
    assert list(table_rows(tmp_path / "t.csv", problems, [])) == [{"text": "good film", "label": "pos"}]
    assert [one.key for one in problems] == ["t.csv, line 4"]


@pytest.mark.parametrize("other", ["", ",neg", ",the sun is red"])
def test_the_first_text_is_kept_without_a_line_of_names(tmp_path, other):
    texts = ["a red dog barks", "the sun is up", "many small cats run here", "Great!", "it is green now"]
    lines = [f"{text}{other and other + str(k)}\n" for k, text in enumerate(texts)]
    for first in (0, 3):  # a usual one, and one of a word
        order = [lines[first], *lines[:first], *lines[first + 1 :]]
        found, _, notes = rows(tmp_path, "".join(order))
        assert len(found) == 5 and found[0][0] == texts[first] and "its first line is a row, too" in notes[0]
    for names in ("text", "my own text", "what is said"):
        found, _, notes = rows(tmp_path, names + ",label" * bool(other) + "\n" + "".join(lines[:3] * 5))
        assert len(found) == 15 and not notes


def test_a_name_of_a_column_that_may_be_a_text_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("good film\na red dog barks\nthe sun is up\nmany small cats run here\n")
    (note,) = open_source(tmp_path / "t.csv").notes
    assert "'good film'" in note and "write a line with the names of the columns above it" in note
    (tmp_path / "t.csv").write_text("review\na red dog barks\nthe sun is up\nmany small cats run here\n")
    (note,) = open_source(tmp_path / "t.csv").notes
    assert "write a line" not in note


def test_rows_within_a_quote_are_said(tmp_path):
    found, _, notes = rows(tmp_path, f'{NAMED}"good film,pos\nbad film,neg\nodd film",neg\nfine film,pos\n')
    assert len(found) == 2
    assert notes == ["t.csv, line 2: a cell holds what looks like rows; was its quote not closed?"]
    _, _, notes = rows(tmp_path, f'{NAMED}"Dear all,\nthis is a film, and a good one",pos\nbad film,neg\n')
    assert not notes
