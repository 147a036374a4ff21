import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluate.small_sets import COLOURS, png

from raylab.errors import RaylabError
from raylab.evaluate.datasets import GPR1200_DOMAINS, open_images
from raylab.evaluate.image_set import Address, class_codes
from raylab.schema import Reason


def written(folder, names, content=None):
    for place, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(list(COLOURS.values())[place % 3]) if content is None else content)


def all_bytes(images):
    return images.source.image_bytes(images.refs)


def test_a_folder_of_classes(tmp_path):
    written(tmp_path, ["red_kite/1.png", "red_kite/deep/2.png", "owl/3.jpg"])
    (tmp_path / "README.txt").write_text("no image")
    images = open_images(str(tmp_path))
    assert images.labels == ["owl", "red_kite", "red_kite"]
    assert images.names_of("red_kite") == ("red kite",)
    assert all(isinstance(one, bytes) for one in all_bytes(images))
    assert images.domains is None


def test_a_flat_folder_is_ordered_by_the_number_of_the_category(tmp_path):
    written(tmp_path, ["10_a.jpg", "9_b.jpg", "9_a.jpg", "100_c.jpg"])
    images = open_images(str(tmp_path))
    assert images.labels == ["9", "9", "10", "100"]
    assert [ref["uri"].rpartition("/")[2] for ref in images.refs] == ["9_a.jpg", "9_b.jpg", "10_a.jpg", "100_c.jpg"]
    assert images.domains is None


def test_twelve_thousand_flat_images_are_gpr1200_in_domains_of_two_thousand(tmp_path):
    for category in range(1200):
        for original in range(10):
            (tmp_path / f"{category}_{original:03d}.jpg").touch()
    images = open_images(str(tmp_path))
    assert len(images) == 12_000
    starts = [images.domains.index(domain) for domain in GPR1200_DOMAINS]
    assert starts == [0, 2000, 4000, 6000, 8000, 10_000]
    assert images.labels[2000] == "200" and images.labels[11_999] == "1199"
    assert len(images.spread(1200).domains) == 1200


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def test_parquet_with_bytes_labels_and_titles(tmp_path):
    rows = [
        {"image": png(colour), "fine": number % 2, "name": f"no {number % 2}"}
        for number, colour in enumerate([*COLOURS.values()] * 2)
    ]
    rows[3]["fine"] = None
    parquet(tmp_path / "a.parquet", rows)
    images = open_images(f"{tmp_path}/*.parquet#label=fine,title=name")
    assert images.labels == ["0", "1", "0", "0", "1"]
    assert images.names_of("1") == ("no 1",)
    assert all_bytes(images) == [row["image"] for row in rows if row["fine"] is not None]


def test_parquet_with_paths(tmp_path):
    written(tmp_path, ["pictures/1.png"])
    parquet(tmp_path / "a.parquet", [{"image": "pictures/1.png", "label": "x"}, {"image": "../1.png", "label": "y"}])
    found = all_bytes(open_images(str(tmp_path / "a.parquet")))
    assert isinstance(found[0], bytes) and found[1] == Reason.MISSING_IMAGE


def test_lines_beside_images(tmp_path):
    written(tmp_path, ["images/1.png", "images/2.png"])
    rows = [{"file": f"images/{number}.png", "wnid": f"n{number}", "lemmas": ["a", "b"]} for number in (1, 2, 3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    images = open_images(f"{tmp_path}#label=wnid,title=lemmas")
    assert images.labels == ["n1", "n2", "n3"]
    assert images.names_of("n1") == ("a", "b")
    assert [isinstance(one, bytes) for one in all_bytes(images)] == [True, True, False]


def test_the_mini_world_gives_its_pictures_of_one_entity():
    images = open_images("miniworld://?rows=60&seed=5")
    assert 30 < len(images) < 60
    assert all(label.startswith(("mw:", "Q")) for label in images.labels)
    assert images.names_of(images.labels[0])[0] != images.labels[0]
    assert isinstance(all_bytes(images.spread(1))[0], bytes)


def test_rows_are_spread_over_the_set():
    images = open_images("miniworld://?rows=60&seed=5")
    few = open_images("miniworld://?rows=60&seed=5#rows=4")
    assert few.labels == [images.labels[len(images) * place // 4] for place in range(4)]
    assert open_images("miniworld://?rows=60&seed=5#rows=1000").labels == images.labels


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lable=fine", "'lable=fine' is no option. .*Known: label=..."),
        ("rows", "'rows' is no option. Did you mean 'rows'"),
        ("rows=few", "rows=few must be a whole number"),
    ],
)
def test_options_that_do_not_exist_are_answered_with_those_that_do(option, message):
    with pytest.raises(RaylabError, match=message):
        Address.parse(f"x.parquet#{option}")


def test_a_missing_column_is_answered_with_those_present(tmp_path):
    parquet(tmp_path / "a.parquet", [{"image": b"x", "fine": 1}])
    with pytest.raises(RaylabError, match=r"no 'label' for the label; present: image, fine.*#label=COLUMN"):
        open_images(str(tmp_path / "a.parquet"))
    with pytest.raises(RaylabError, match=r"no 'fin' for the label; .*Did you mean 'fine'"):
        open_images(f"{tmp_path / 'a.parquet'}#label=fin")
    with pytest.raises(RaylabError, match="no 'nam' for the title"):
        open_images(f"{tmp_path / 'a.parquet'}#label=fine,title=nam")
    (tmp_path / "b.jsonl").write_text('{"file": "x.png", "wnid": "n1"}')
    with pytest.raises(RaylabError, match=r"b.jsonl:1: no 'label' for the label; present: file, wnid"):
        open_images(str(tmp_path / "b.jsonl"))


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(RaylabError, match="no such file"):
        open_images(str(tmp_path / "nowhere"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(RaylabError, match="no Parquet file that can be read"):
        open_images(str(tmp_path / "bad.parquet"))
    written(tmp_path / "mixed", ["red/1.png", "loose.png"])
    with pytest.raises(RaylabError, match=r"loose\.png lies in no class's folder"):
        open_images(str(tmp_path / "mixed"))
    written(tmp_path / "texts", ["a/b.txt"])
    with pytest.raises(RaylabError, match="none of 1 files is an image"):
        open_images(str(tmp_path / "texts"))
    parquet(tmp_path / "empty.parquet", [{"image": b"x", "label": None}])
    with pytest.raises(RaylabError, match="no labelled image there"):
        open_images(str(tmp_path / "empty.parquet"))


def test_classes_are_numbered_in_order():
    names, codes = class_codes(["b", "a", "b"])
    assert names == ["a", "b"] and codes.tolist() == [1, 0, 1]
    assert class_codes([])[0] == []
