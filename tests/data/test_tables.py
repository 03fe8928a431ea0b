"""Tables of samples: files and what they show, by columns of any name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse import StillhouseError, StillhouseWarning
from stillhouse.data import DataSpec, load_data
from stillhouse.data.catalogue import open_source
from stillhouse.data.sources import SourceRequest

Write = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """``table(text, images)``: writes both, images of 8 x 6 pixels, and returns the source's name."""

    def write(text: str, images: int = 12, name: str = "t.csv") -> str:
        (tmp_path / "img").mkdir(exist_ok=True)
        for k in range(images):
            Image.fromarray(np.full((6, 8), 10 * k, dtype=np.uint8)).save(tmp_path / "img" / f"{k}.png")
        (tmp_path / name).write_text(text, encoding="utf-8")
        return f"table:{tmp_path / name}"

    return write


def opened(name: str, skip_bad: bool = False, **args: Any) -> Any:
    return open_source(name, SourceRequest(args=args, val_fraction=0.25, skip_bad=skip_bad))


def faults_of(name: str, **args: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        opened(name, **args)
    return str(caught.value).replace(name.removeprefix("table:").rpartition("/")[0] + "/", "")


ROWS = "".join(f"img/{k}.png,{'ab'[k % 2]}\n" for k in range(12))


def test_classes_by_name_are_split_as_folders_are(table: Write):
    source = opened(table("image,label\n" + ROWS))
    assert source.class_names == ("a", "b")
    assert {split: len(ids) for split, ids in source.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert [source.pair(i)[1] for i in range(4)] == [0, 1, 0, 1]
    assert int(source.pair(3)[0][0, 0, 0]) == 30
    assert source.place(3).endswith("img/3.png")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_have_any_names_and_fields_any_delimiter(delimiter: str, table: Write):
    text = "\ufefffile, Class ,fold\r\n\r\n" + "".join(
        f'"img/{k}.png", {k % 3 + 5},{("Train", "valid", "TEST")[k // 4]}\r\n' for k in range(12)
    )
    name = table(text.replace(",", delimiter))
    source = opened(name, image="file", label="Class", split="fold")
    assert source.class_names == ("5", "6", "7")
    assert {split: ids.tolist() for split, ids in source.splits.items()} == {
        "train": [0, 1, 2, 3],
        "val": [4, 5, 6, 7],
        "test": [8, 9, 10, 11],
    }
    assert opened(name, image="file", label="Class", split="fold", classes=["7", "6", "5"]).labels[:3].tolist() == [
        2,
        1,
        0,
    ]


def test_numbers_are_ordered_as_numbers(table: Write):
    source = opened(table("image,label\n" + "".join(f"img/{k}.png,{k % 2}\n" for k in range(12))), split="", classes=3)
    assert source.class_names == ("0", "1", "2")
    assert opened(table("image,label\n" + "".join(f"img/{k}.png,{k % 3 * 9}\n" for k in range(12)))).class_names == (
        "0",
        "9",
        "18",
    )


def test_a_root_and_files_anywhere(table: Write, tmp_path: Path):
    name = table("image,label\n" + ROWS.replace("img/", ""), name="here.tsv")
    assert opened(name, root="img").place(0) == str(tmp_path / "img/0.png")
    absolute = table("image,label\n" + ROWS.replace("img/", f"{tmp_path}/img/"))
    assert opened(absolute).read(5)[0, 0, 0] == 50


def test_several_columns_of_numbers(table: Write):
    name = table("image,x,y\n" + "".join(f"img/{k}.png,{k / 2},-1e{k % 3}\n" for k in range(12)))
    source = opened(name, label=["x", "y"], target="vector")
    assert source.pair(3)[1].tolist() == [1.5, -1.0]
    assert opened(name, label="x", target="vector").pair(3)[1].tolist() == [1.5]


def test_masks_and_pictures_by_file(table: Write, tmp_path: Path):
    text = "image,label\n" + "".join(f"img/{k}.png,masks/{k}.png\n" for k in range(12))
    name = table(text)
    (tmp_path / "masks").mkdir()
    for k in range(12):
        Image.fromarray(np.full((6, 8), k % 2 * 255, dtype=np.uint8)).save(tmp_path / "masks" / f"{k}.png")
    source = opened(name, target="mask", classes=["no", "yes"], values=[0, 255])
    assert source.class_names == ("no", "yes")
    assert source.pair(3)[1].unique().tolist() == [1]
    assert opened(name, target="image").pair(3)[1].shape == (1, 6, 8)


def test_boxes_a_row_each(table: Write):
    text = "image,label,x1,y1,x2,y2\nimg/0.png,cat,0,1,4,5\nimg/1.png,,,,,\nimg/0.png,dog,1,1,2,2.5\n"
    source = opened(table(text + "".join(f"img/{k}.png,cat,0,0,{k % 7 + 1},3\n" for k in range(2, 12))), target="boxes")
    assert source.class_names == ("cat", "dog")
    assert len(source.labels) == 12
    boxes = source.pair(0)[1]
    assert boxes["boxes"].tolist() == [[0, 1, 4, 5], [1, 1, 2, 2.5]]
    assert boxes["labels"].tolist() == [0, 1]
    assert source.pair(1)[1]["boxes"].shape == (0, 4)


def test_boxes_in_files_of_voc_and_of_yolo(table: Write, tmp_path: Path):
    name = table("image,boxes\n" + "".join(f"img/{k}.png,{k}.{'xml' if k % 2 else 'txt'}\n" for k in range(12)))
    for k in range(12):
        if k % 2:
            text = "<a><object><name>0</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object></a>"
            (tmp_path / f"{k}.xml").write_text(text)
        else:
            (tmp_path / f"{k}.txt").write_text("1 0.5 0.5 0.25 1\n\n0 0.125 0.5 0.25 0.5\n")
    source = opened(name, target="boxes", boxes="boxes")
    assert source.pair(1)[1]["boxes"].tolist() == [[0, 1, 4, 6]]
    assert source.pair(0)[1]["boxes"].tolist() == [[3, 0, 5, 6], [0, 1.5, 2, 4.5]]
    assert source.pair(0)[1]["labels"].tolist() == [1, 0]


def test_the_hash_follows_what_the_table_says(table: Write):
    rows = "".join(f"img/{k}.png,{k}\n" for k in range(12))
    before = opened(table("image,v\n" + rows), label="v", target="vector")
    assert opened(table("image,v\n" + rows, name="u.csv"), label="v", target="vector").stamp == before.stamp
    assert opened(table("image,v\n" + rows.replace(",7", ",8")), label="v", target="vector").stamp != before.stamp


def test_a_table_trains_batches(table: Write):
    spec = DataSpec(name=table("image,label\n" + ROWS), batch_size=4, val_fraction=0.25)
    data = load_data(spec, seed=0)
    batch = next(iter(data.evaluation("val")))
    assert batch.input.shape == (4, 1, 6, 8)
    assert sorted(batch.target.tolist()) == [0, 0, 1, 1]


def test_parquet(table: Write, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table("image,label\n" + ROWS)
    columns = {"image": [f"img/{k}.png" for k in range(12)], "label": [k % 3 for k in range(12)]}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    assert opened(f"table:{tmp_path / 't.parquet'}").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        ("", {}, "data.name: t.csv has no rows"),
        ("image,label\n", {}, "data.name: t.csv has no rows"),
        ("image,image\nimg/0.png,a\n", {}, "t.csv has two columns 'image' (a header, and each name once)"),
        ("image,label\nimg/0.png\n", {}, "t.csv, line 2: must have 2 fields, got 1"),
        ('image,label\n"img/0.png,a\n', {}, "t.csv, line 2: is not valid CSV"),
        ("path,label\n" + ROWS, {}, "data.args.image: t.csv has no column 'image'"),
        ("path,label\n" + ROWS, {"image": "pth"}, "data.args.image: t.csv has no column 'pth' (did you mean 'path'?)"),
        ("image,label\n" + ROWS, {"labl": "x"}, "data.args.labl: unknown key 'labl' (did you mean 'label'?)"),
        ("image,label\n" + ROWS, {"target": "boxs"}, "data.args.target: must be class, vector, mask"),
        ("image,label\n" + ROWS, {"label": ["label", "image"]}, "data.args.label: must be one column"),
        (
            "image,label\n" + ROWS + "img/99.png,a\n,b\n",
            {},
            "2 of 14 images are not there: t.csv, row 14: 'img/99.png'; t.csv, row 15: 'no file'",
        ),
        (
            "image,label\n" + ROWS + "img/3.png,\n",
            {"split": ""},
            "data.args.label: t.csv, row 14: the row has no class",
        ),
        ("image,label\n" + ROWS + "img/3.png,a\n", {}, "t.csv, row 14: img/3.png is 'a' here, and 'b' above"),
        ("image,label\n" + ROWS, {"classes": ["a", "c"]}, "t.csv, row 3: must be one of the classes, a, c, got 'b'"),
        (
            "image,label,split\nimg/0.png,a,trian\n",
            {},
            "data.args.split: t.csv, row 2: must be train, val or test, got 'trian'",
        ),
        ("image,label,split\nimg/0.png,a,val\n", {}, "data.args.split: t.csv has no row of the split train"),
        (
            "image,label,split\nimg/0.png,a,train\nimg/0.png,a,val\n",
            {},
            "data.args.split: t.csv, row 3: img/0.png is of val here, and of train above",
        ),
        ("image,label\nimg/0.png,x\n", {"target": "vector"}, "t.csv, row 2: label must be a number, got 'x'"),
        ("image,label\nimg/0.png,inf\n", {"target": "vector"}, "t.csv, row 2: the target's numbers must be finite"),
        (
            "image,label\nimg/0.png,m.png\n",
            {"target": "mask", "classes": 2},
            "t.csv, row 2: the file 'm.png' is not there",
        ),
        ("image,label,x1,y1,x2,y2\nimg/0.png,a,1,2,x,4\n", {"target": "boxes"}, "t.csv, row 2: must be four numbers"),
        ("image,label,x1,y1,x2,y2\nimg/0.png,,1,2,3,4\n", {"target": "boxes"}, "t.csv, row 2: the box has no class"),
        (
            "image,label\nimg/0.png,a\n",
            {"target": "boxes", "boxes": ["a", "b"]},
            "must be four columns or one, got ['a', 'b']",
        ),
        ("image,b\nimg/0.png,none.xml\n", {"target": "boxes", "boxes": "b"}, "t.csv, row 2: none.xml: cannot be read"),
        ("image,b\nimg/0.png,t.csv\n", {"target": "boxes", "boxes": "b"}, "a file of boxes must be .xml"),
    ],
)
def test_what_is_wrong_is_said_by_its_row(text: str, args: dict[str, Any], said: str, table: Write):
    assert said in faults_of(table(text), **args)


def test_a_table_that_is_not_there_and_one_that_is_no_text(table: Write, tmp_path: Path):
    table("image,label\n" + ROWS)
    assert "file not found: tt.csv (did you mean 't.csv'?)" in faults_of(f"table:{tmp_path}/tt.csv")
    (tmp_path / "b.csv").write_bytes(b"image\n\xff")
    assert "b.csv is not text in UTF-8: byte 6 (save it as CSV UTF-8)" in faults_of(f"table:{tmp_path}/b.csv")


def test_rows_without_a_file_can_be_left_out(table: Write):
    name = table("image,label\nimg/99.png,a\n" + ROWS)
    with pytest.warns(UserWarning, match="left out: 1 of 13 images are not there"):
        source = opened(name, skip_bad=True)
    assert len(source.labels) == 12
    assert torch.equal(torch.from_numpy(source.labels[:2]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<a>", "is not valid XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "must not declare entities"),
        ("<a><object><name>x</name></object></a>", "object 1 must have a name and a bndbox"),
    ],
)
def test_a_bad_file_of_boxes_is_named(content: str, said: str, table: Write, tmp_path: Path):
    (tmp_path / "b.xml").write_text(content)
    assert f"b.xml: {said}" in faults_of(table("image,b\nimg/0.png,b.xml\n"), target="boxes", boxes="b")


def test_two_spellings_are_one_image(table: Write, tmp_path: Path):
    rows = "".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(12))
    text = faults_of(table(f"file,class\n{rows}./0.png,b\n"), image="file", label="class", root=str(tmp_path / "img"))
    assert "0.png is 'b' here, and 'a' above" in text


def test_an_image_in_two_rows_is_spoken_of_where_rows_are_split(table: Write, tmp_path: Path):
    rows = "".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(12))
    with pytest.warns(StillhouseWarning, match="1 rows are of images that stand above already"):
        opened(table(f"file,class\n{rows}0.png,a\n"), image="file", label="class", root=str(tmp_path / "img"))


def test_an_image_has_one_file_of_boxes(table: Write, tmp_path: Path):
    rows = "".join(f"{k}.png,{k}.txt\n" for k in range(12))
    for name in (*map(str, range(12)), "other"):
        (tmp_path / "img" / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "img" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    source = table(f"file,found\n{rows}0.png,other.txt\n")
    text = faults_of(source, image="file", boxes="found", target="boxes", classes=["0"], root=str(tmp_path / "img"))
    assert "an image has one file of boxes, and this one has '0.txt' too" in text
