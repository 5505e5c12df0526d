from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.manifest import Problem, check_rows, read_table, summarise
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.core.manifest import SlideEntry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.svs", "b.svs"):
        (tmp_path / name).touch()
    return tmp_path


def checked(folder: Path, text: str) -> tuple[list[SlideEntry], list[Problem]]:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return check_rows(read_table(path), folder)


def test_rows_become_slides_in_their_order(folder: Path) -> None:
    text = "slide_id,slide_path,patient_id,mpp,label\nb,b.svs,p1,0.25,x\na,a.svs,,,y\n"
    entries, problems = checked(folder, text)
    assert problems == []
    assert [(e.row, e.slide_id, e.slide_path, e.patient_id, e.mpp_l0) for e in entries] == [
        (2, "b", folder / "b.svs", "p1", 0.25),
        (3, "a", folder / "a.svs", "a", None),
    ]


def test_paths_are_absolute_or_start_from_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.svs"
    elsewhere.touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "d.svs").touch()
    entries, problems = checked(folder, f"slide_id,slide_path\nc,{elsewhere}\nd,sub/d.svs\n")
    assert not problems
    assert [entry.slide_path for entry in entries] == [elsewhere, folder / "sub" / "d.svs"]


def test_every_problem_of_every_row_is_told(folder: Path) -> None:
    text = (
        "slide_id,slide_path,mpp\n"
        "a,a.svs,\n"
        "../b,absent.svs,fast\n"
        ",b.svs,\n"
        "c,,\n"
        "\n"
        "d,a.svs,264.6\n"
        "e,b.svs,0.25\n"
        "e,b.svs,0.25\n"
        "f,a.svs,nan\n"
        "g,a.svs,0\n"
    )
    entries, problems = checked(folder, text)
    assert [entry.slide_id for entry in entries] == ["a"]
    assert [(problem.row, problem.slide_id, problem.error) for problem in problems] == [
        (3, "../b", "slide_id '../b' is not a valid file name."),
        (3, "../b", f"no such file: {folder / 'absent.svs'}."),
        (3, "../b", "mpp is 'fast'."),
        (4, "", "slide_id is empty."),
        (5, "c", "slide_path is empty."),
        (7, "d", "mpp is '264.6'."),
        (8, "e", "slide_id 'e' occurs in rows 8, 9."),
        (9, "e", "slide_id 'e' occurs in rows 8, 9."),
        (10, "f", "mpp is 'nan'."),
        (11, "g", "mpp is '0'."),
    ]
    assert all(problem.hint for problem in problems)
    assert str(problems[3]) == "row 4 (no slide_id): slide_id is empty. Give every slide a unique name."


@pytest.mark.parametrize("mpp", ["0.1", "0.25", "5.0", "5", " 0.5 "])
def test_a_plausible_resolution_is_taken(folder: Path, mpp: str) -> None:
    (entry,), problems = checked(folder, f"slide_id,slide_path,mpp\na,a.svs,{mpp}\n")
    assert not problems
    assert entry.mpp_l0 == float(mpp)


@pytest.mark.parametrize("mpp", ["0.099", "5.001", "-0.5", "inf", "1e400", '"0,5"', "0.5um", "None"])
def test_an_implausible_resolution_is_not(folder: Path, mpp: str) -> None:
    entries, (problem,) = checked(folder, f"slide_id,slide_path,mpp\na,a.svs,{mpp}\n")
    assert not entries
    assert problem.hint == "Allowed: 0.1 to 5.0 um/px, or empty to use the value in the file."


def test_cells_stay_text(folder: Path) -> None:
    for name in ("007.svs", "NA.svs"):
        (folder / name).touch()
    entries, problems = checked(folder, "slide_id,slide_path,patient_id\n007,007.svs,0012\nNA,NA.svs,null\n")
    assert not problems
    assert [(entry.slide_id, entry.patient_id) for entry in entries] == [("007", "0012"), ("NA", "null")]


def test_spreadsheets_habits_are_forgiven(folder: Path) -> None:
    """A byte-order mark, Windows line endings, quotes, spaces around cells, blank lines."""
    path = folder / "manifest.csv"
    path.write_bytes('\ufeffslide_id , slide_path\r\n\r\n"a", a.svs \r\n,\r\n b,"b.svs"\r\n'.encode())
    table = read_table(path)
    assert list(table.columns) == ["slide_id", "slide_path"]
    assert table.to_dict("index") == {
        3: {"slide_id": "a", "slide_path": "a.svs"},
        5: {"slide_id": "b", "slide_path": "b.svs"},
    }


def test_columns_without_a_name_are_left_out(folder: Path) -> None:
    entries, problems = checked(folder, "slide_id,slide_path,,\na,a.svs,,\nb,b.svs,x,\n")
    assert not problems
    assert [entry.slide_id for entry in entries] == ["a", "b"]


def test_a_short_row_is_filled_with_nothing(folder: Path) -> None:
    entries, problems = checked(folder, "slide_id,slide_path,mpp,label\na,a.svs\nb,b.svs,0.5\n")
    assert not problems
    assert [entry.mpp_l0 for entry in entries] == [None, 0.5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as UTF-8 CSV"),
        (b"slide_id,slide_path\n", "has no slides"),
        (b"slide_id,slide_path\n\n,\n , \n", "has no slides"),
        (b"slide_id,path\na,a.svs\n", "column slide_path is missing; found slide_id, path"),
        (b"a,b\n1,2\n", "columns slide_id, slide_path are missing; found a, b"),
        (b"slide_id;slide_path\na;a.svs\n", "found slide_id;slide_path.*commas; here semicolons separate them"),
        (b"slide_id,slide_path,slide_id\na,a.svs,b\n", "duplicate column slide_id"),
        (b"slide_id,slide_path, slide_path\na,a.svs,b\n", "duplicate column slide_path"),
        (b"slide_id;mpp\na;0,5\n", "cannot be read as UTF-8 CSV[^$]*here semicolons separate them"),
        (b"slide_id,slide_path\na,a.svs,more\n", "cannot be read as UTF-8 CSV"),
        (b"slide_id,slide_path\na,a.svs\nb,b.svs,more\n", "cannot be read as UTF-8 CSV .*line 3"),
        (b'slide_id,slide_path\n"a,a.svs\n', "cannot be read as UTF-8 CSV"),
        ("slide_id,slide_path\nü,a.svs\n".encode("latin-1"), "cannot be read as UTF-8 CSV"),
    ],
)
def test_what_is_no_manifest_is_refused_as_a_whole(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read_table(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_an_absent_manifest_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="it is a folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "a.svs/b.svs"])
def test_a_path_that_cannot_be_is_a_problem_of_its_row(folder: Path, path: str) -> None:
    table = read_table(_manifest(folder, path))
    entries, (problem,) = check_rows(table, folder)
    assert not entries
    assert problem.error.startswith(("no such file: ", f"{folder / path} is not accessible"))


def test_a_path_without_permission_is_a_problem_of_its_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    table = read_table(_manifest(folder, "a.svs"))
    monkeypatch.setattr(type(folder), "stat", refuse)
    entries, (problem,) = check_rows(table, folder)
    assert not entries
    assert problem.error == f"{folder / 'a.svs'} is not accessible (Permission denied)."


def _manifest(folder: Path, slide_path: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(f"slide_id,slide_path\na,{slide_path}\n", encoding="utf-8")
    return path


def test_a_summary_is_bounded() -> None:
    problems = [Problem(row, f"s{row}", "p", "wrong.", "fix.") for row in range(2, 102)]
    lines = summarise(problems).splitlines()
    assert lines[0] == "  row 2 (s2): wrong. fix."
    assert len(lines) == 51
    assert lines[-1] == "  and 50 more"
    assert len(summarise(problems[:50]).splitlines()) == 50


@pytest.mark.parametrize("path", sorted((REPOSITORY / "manifests").glob("*.csv")), ids=lambda path: path.name)
def test_the_shipped_examples_are_manifests(path: Path, tmp_path: Path) -> None:
    table = read_table(path)
    for name in table["slide_path"]:
        (tmp_path / name).touch()
    entries, problems = check_rows(table, tmp_path)
    assert entries
    assert problems == []


def test_the_shipped_examples_name_slides_that_are_there(data: Path) -> None:
    entries, problems = check_rows(read_table(REPOSITORY / "manifests" / "example.csv"), data / "slides")
    assert len(entries) == 5
    assert problems == []
