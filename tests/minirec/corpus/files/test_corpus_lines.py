"""Which lines of a block the kernels take, and where blocks are cut."""

import pytest

from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.lines import Lines, odd_rows, plain_csv, plain_json
from minirec.corpus.files.spec import FileSpec

CSV = FileSpec("a.csv", "events", "csv", ("user", "item"), {"user": "user", "item": "item"})
TSV = FileSpec("a.tsv", "events", "tsv", ("user", "item"), {"user": "user", "item": "item"})


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b"u,i", True),
        (b'"u","i, j"', True),
        (b'"",""', True),
        (b"\xc3\xa9,i", True),
        (b"u", False),
        (b"u,i,j", False),
        (b'"u,i"', False),
        (b'u,"i ""j"""', False),
        (b'u,i"', False),
        (b'u,"i', False),
        (b'u,"i"j', False),
        (b'u ,"i" ', False),
        (b"u\r,i", False),
        (b"u,i\r\r", False),
        (b"\xff,i", False),
        (b"\xef\xbb\xbfu,i", False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_plain_lines(line, plain, end):
    data = end.join([b'"a",b', line, b"\xc3\xa9,i", b""])
    for spec, raw in ((CSV, data), (TSV, data.replace(b",", b"\t"))):
        assert plain_csv(Lines.of(raw, 2), spec).tolist() == [True, plain, True]


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b'{"u": 1}', True),
        (b"{} {}", True),  # the number of objects is compared later
        (b' {"u": 1}', False),
        (b'{"u": "\\n"}', False),
        (b'{"u": ' + b"[" * 300 + b"]" * 300 + b"}", False),
        (b'{"u": ' + b"9" * 4300 + b"}", False),
        (b'{"u": "' + b"9 " * 4300 + b'"}', True),
        (b'{"u": "\xff"}', False),
        (b"", False),
    ],
)
def test_plain_objects(line, plain):
    assert plain_json(Lines.of(b"{}\n" + line + b"\r\n{}", 1)).tolist() == [True, plain, True]


def test_lines_that_belong_together():
    found = Lines.of(b'a,b\nc,"d\n\ne"\nf,g\nh,"i\n', 2)
    plain = plain_csv(found, CSV)
    rows = list(odd_rows(found, plain, CSV))
    assert rows == [(1, 4, (3, b'c,"d\ne"')), (5, 6, (7, b'h,"i'))]
    assert plain.tolist() == [True, False, False, False, True, False]
    assert found.only(plain.nonzero()[0]) == b"a,b\nf,g\n"


@pytest.mark.parametrize("more", [0, 1, 99, 100])
@pytest.mark.parametrize("block_bytes", [1, 500, 3000])
def test_a_row_is_not_divided(tmp_path, more, block_bytes):
    """Each row is one or `more` + 1 lines, so most lines are near an open quote."""
    row = b'u,"' + b"word\n" * more + b'word"\n'
    path = tmp_path / "rows.csv"
    path.write_bytes(b"user,item\n" + (row + b"v,j\n") * 60)
    spec = FileSpec(str(path), "events", "csv", CSV.header, CSV.columns)
    data, place = path.read_bytes(), len(b"user,item\n")
    for table in read_blocks(spec, block_bytes=block_bytes):
        (block,) = table.to_pylist()
        assert block["start"] == place
        assert data[place : place + 2] in (b"u,", b"v,")
        assert block["line"] == 1 + data.count(b"\n", 0, place)
        place = block["stop"]
    assert place == len(data)


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_file_of_many_such_rows_has_many_blocks(tmp_path, rows):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"user,item\n" + b'u,"a\nb"\n' * rows)
    spec = FileSpec(str(path), "events", "csv", CSV.header, CSV.columns)
    assert len(list(read_blocks(spec, block_bytes=2000))) == (1 if rows == 1 else 5)
