from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands.from_clam import run
from slpd_toolkit.config.from_clam import FromClamConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.manifest import check_rows, read_table
from tests.cohorts import read_csv

if TYPE_CHECKING:
    from pathlib import Path

TABLE = """case_id,slide_id,label,site,survival_months,censorship
P1,a.svs,LUAD,05,10.5,1
P1,b.svs,LUSC,05,10.5,1
P2,c.svs,LUSC,6,3,0
P3,d.svs,,6,,
"""


def test_a_label_table_becomes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text(TABLE)
    assert run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv")) == 0
    assert (tmp_path / "m.csv").read_text() == (
        "slide_id,slide_path,patient_id,site,label,time,event\n"
        "a,a.svs,P1,05,LUAD,10.5,0\n"
        "b,b.svs,P1,05,LUSC,10.5,0\n"
        "c,c.svs,P2,6,LUSC,3.0,1\n"
        "d,d.svs,P3,6,,,\n"
    )
    said = capsys.readouterr()
    shown = " ".join(said.out.split())
    assert "slides 4 patients 3 sites 2" in shown
    assert "LUAD 1 slide of 1 patient, LUSC 2 slides of 2 patients" in shown
    assert "survival 3 slides with time and event, 1 with event 1" in shown
    assert "1 patient has more than one label: P1" in said.err


def test_slides_are_found_in_the_folders_of_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text(TABLE)
    for number, name in enumerate("abc"):
        (tmp_path / "gdc" / f"uuid{number}").mkdir(parents=True)
        (tmp_path / "gdc" / f"uuid{number}" / f"{name}.svs").touch()
    run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv", slides_root=tmp_path / "gdc"))
    paths = [row["slide_path"] for row in read_csv(tmp_path / "m.csv")]
    assert paths == [str(tmp_path / "gdc" / f"uuid{number}" / f"{name}.svs") for number, name in enumerate("abc")] + [
        "d.svs"
    ]
    assert "1 of 4 slides is not under" in capsys.readouterr().err
    usable, problems = check_rows(read_table(tmp_path / "m.csv"), tmp_path)
    assert (len(usable), len(problems)) == (3, 1)


def test_splits_are_checked_against_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text(TABLE)
    (tmp_path / "splits_3.csv").write_text(",train,val,test\n0,a,c,b\n1,d,,elsewhere\n")
    run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv", splits=(tmp_path,)))
    said = capsys.readouterr().err
    assert "Split 3: 1 slide is not in the table: elsewhere." in said
    assert "Split 3: 1 patient is in both train and test: P1." in said
    (tmp_path / "splits_4.csv").write_text("train,val,test\nd,c,elsewhere\na,,b\n")
    run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv", splits=(tmp_path,)))
    assert "Splits 3, 4 are identical;" in capsys.readouterr().err


def test_one_name_in_two_folders_is_an_error_that_names_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither file is used. Folders and dangling links are not slides; two links to one file are one slide."""
    (tmp_path / "labels.csv").write_text(TABLE)
    for folder in ("x", "y", "z/d.svs"):
        (tmp_path / "gdc" / folder).mkdir(parents=True)
    for place in ("x/a.svs", "y/a.svs", "x/b.svs"):
        (tmp_path / "gdc" / place).touch()
    (tmp_path / "gdc" / "y" / "b.svs").symlink_to(tmp_path / "gdc" / "x" / "b.svs")
    (tmp_path / "gdc" / "y" / "c.svs").symlink_to(tmp_path / "nowhere.svs")
    config = FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv", slides_root=tmp_path / "gdc")
    with pytest.raises(UsageError, match=r"1 file name exists.*: a\.svs \(.*/gdc/x/a\.svs, .*/gdc/y/a\.svs\)\."):
        run(config)
    assert "2 of 4 slides are not under" in (said := capsys.readouterr().err)
    assert "c.svs, d.svs" in said
    assert not (tmp_path / "m.csv").exists()
    (tmp_path / "gdc" / "y" / "a.svs").unlink()
    run(config)
    paths = [row["slide_path"] for row in read_csv(tmp_path / "m.csv")]
    assert paths == [str(tmp_path / "gdc" / "x" / "a.svs"), str(tmp_path / "gdc" / "x" / "b.svs"), "c.svs", "d.svs"]


def test_slides_outside_the_table_count_in_the_audit_by_their_barcode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Q is the patient ID of TCGA-A1-A0SB in the table; TCGA-B2-B0SB is in no row; `other` is a separate patient."""
    (tmp_path / "labels.csv").write_text(
        "case_id,slide_id\nQ,TCGA-A1-A0SB-01Z-00-DX1.svs\nR,TCGA-C3-C0SB-01Z-00-DX1.svs\n"
    )
    (tmp_path / "splits_0.csv").write_text(
        "train,val,test\n"
        "TCGA-A1-A0SB-01Z-00-DX1,TCGA-B2-B0SB-01Z-00-DX1,TCGA-A1-A0SB-01Z-00-DX2\n"
        "TCGA-B2-B0SB-01Z-00-DX2,other,TCGA-A1-A0SBX-01Z\n"
    )
    run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv", splits=(tmp_path / "splits_0.csv",)))
    said = capsys.readouterr().err
    assert "1 patient is in both train and test: Q." in said
    assert "1 patient is in both train and val: TCGA-B2-B0SB." in said
    assert "in both val and test" not in said


def test_patients_shared_by_parts_of_real_splits(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted by hand from the barcodes of all rows; 166 of the slides are not in the label table."""
    labels = data / "labels" / "tcga_brca_clam_style.csv"
    run(FromClamConfig(labels=labels, out=tmp_path / "m.csv", splits=(data / "labels" / "tcga_brca_splits_0.csv",)))
    said = capsys.readouterr().err
    for parts, count in {"train and test": 12, "train and val": 10, "val and test": 1}.items():
        assert f"{count} patient{' is' if count == 1 else 's are'} in both {parts}: " in said


def test_labels_that_a_spreadsheet_would_run_are_marked_and_read_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("case_id,slide_id,label\n@P,a.svs,=1+1\nQ,b.svs,+/-\n")
    run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv"))
    rows = (tmp_path / "m.csv").read_text().splitlines()[1:]
    assert rows == ["a,a.svs,'@P,'=1+1", "b,b.svs,Q,+/-"]
    table = read_table(tmp_path / "m.csv")
    assert table["label"].tolist() == ["=1+1", "+/-"]
    assert table["patient_id"].tolist() == ["@P", "Q"]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (b"\xef\xbb\xbfcase_id,slide_id\r\nP,a.svs\r\n", ["a,a.svs,P"]),
        (b" case_id , slide_id \rP,a.svs\r", ["a,a.svs,P"]),
        (b'case_id,slide_id\n"P, Jr",a\n\n,\nQ,b.TIFF\nR,c.ndpi\n', ['a,a.svs,"P, Jr"', "b,b.TIFF,Q", "c,c.ndpi,R"]),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, table: bytes, rows: list[str]) -> None:
    (tmp_path / "labels.csv").write_bytes(table)
    assert run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv")) == 0
    assert (tmp_path / "m.csv").read_text().splitlines() == ["slide_id,slide_path,patient_id", *rows]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", "cannot be read as UTF-8 CSV"),
        (b"case_id,slide_id\n\n,\n", "has no slides"),
        (b"case_id;slide_id\nP;a\n", "found case_id;slide_id. Separate the columns by commas"),
        (b"case_id,slide_id\nP,\xdc\n", "cannot be read as UTF-8.*Save it as CSV in UTF-8"),
        (b"case_id,slide_id,label,label\nP,a,x,y\n", "duplicate column label"),
        (b"case_id,slide_id\nP,a,more\n", "cannot be read as UTF-8 CSV.*Expected 2 fields in line 2, saw 3"),
        (b"case_id,slide_id\nP,a\n\nQ,\n", "slide_id is empty in row 4"),
        (b"case_id,slide_id\nP,a.svs\nP,a.TIF\n", "1 duplicate slide: a"),
        (b"case_id,slide_id\nP,a\n\nP,dir/b\nQ,c d\n", r"row 4 \(dir/b\).*is not a valid file name[^$]*row 5 \(c d\)"),
        (b"case_id,slide_id\nP,a\0\n", "is not a valid file name"),
        (b"case_id,slide_id,survival_months,censorship\nP,a,1,0\n\nQ,b,nan,1\n", "survival_months is 'nan' in row 4"),
        (b"case_id,slide_id,survival_months,censorship\nP,a,1,2\n", "censorship is '2' in row 2"),
    ],
)
def test_a_table_that_makes_no_usable_manifest_is_refused(tmp_path: Path, table: bytes, said: str) -> None:
    (tmp_path / "labels.csv").write_bytes(table)
    with pytest.raises(UsageError, match=said):
        run(FromClamConfig(labels=tmp_path / "labels.csv", out=tmp_path / "m.csv"))
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize("table", ["tcga_brca_clam_style.csv", "tcga_nsclc_clam_style.csv"])
def test_real_tables_make_manifests(data: Path, tmp_path: Path, table: str) -> None:
    run(FromClamConfig(labels=data / "labels" / table, out=tmp_path / "m.csv"))
    manifest = read_table(tmp_path / "m.csv")
    assert len(manifest) > 900
    assert {"patient_id", "site", "label", "time", "event"} <= set(manifest.columns)
    assert set(manifest["event"]) <= {"0", "1", ""}


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(TABLE)
    with pytest.raises(UsageError, match=r"allowed: a \.csv file"):
        run(FromClamConfig(labels=labels, out=tmp_path / "m.txt"))
    with pytest.raises(UsageError, match=r"labels\.csv is one of the input tables"):
        run(FromClamConfig(labels=labels, out=labels))
    (tmp_path / "splits_0.csv").write_text("train,val,test\na,b,c\n")
    with pytest.raises(UsageError, match=r"splits_0\.csv is one of the input tables"):
        run(FromClamConfig(labels=labels, out=tmp_path / "splits_0.csv", splits=(tmp_path,)))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"folder\.csv is a folder, but a file with this name must be written"):
        run(FromClamConfig(labels=labels, out=tmp_path / "folder.csv"))
    with pytest.raises(UsageError, match=r"--slides-root: .* is not a folder"):
        run(FromClamConfig(labels=labels, out=tmp_path / "m.csv", slides_root=tmp_path / "absent"))
    assert not (tmp_path / "m.csv").exists()
