"""Class lists of tools: every name gets the label that the masks have, or the list is refused."""

from collections.abc import Callable

import pytest

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_yaml
from segtune.data.layouts import class_names
from segtune.errors import ConfigError, DataError

MakeDataSet = Callable[..., DataConfig]


def names_of(make: MakeDataSet, content: str | bytes, **settings: object) -> tuple[str, ...]:
    data = content if isinstance(content, bytes) else content.encode()
    return class_names(
        make({"labels.txt": lambda path: path.write_bytes(data)}, classes="labels.txt", **settings)
    )


def message_of(make: MakeDataSet, content: str | bytes, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        names_of(make, content, **settings)
    return str(caught.value)


SKY_ROAD = {
    "plain": "sky\nroad\n",
    "blank lines, CRLF": "\r\n sky\r\n\r\nroad \r\n",
    "byte order mark": "\ufeffsky\nroad",
    "UTF-16": "sky\r\nroad\r\n".encode("utf-16"),
    "comment": "# names of the classes\n#\nsky\nroad\n",
    "commas at the end": "sky,\nroad,\n",
    "quotes and commas": '"sky",\n"road",\n',
    "number first": "0 sky\n1 road\n",
    "number and colon": "0: sky\n1: road\n",
    "number and full stop": "0. sky\n1. road\n",
    "number last": "sky,0\nroad,1\n",
    "number last and colon": "sky: 0\nroad: 1\n",
    "other order": "1 road\n0 sky\n",
    "other order, last": "road\t1\nsky\t0\n",
    "leading zeros": "00 sky\n01 road\n",
    "Roboflow": "Pixel Value, Class\n0, sky\n1, road\n",
    "Roboflow, other order": "Pixel Value, Class\n1, road\n0, sky\n",
    "class_dict.csv": "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n",
    "table with tabs": "Idx\tRatio\tName\n0\t0.1\tsky\n1\t0.2\troad\n",
    "semicolons": "id;name\n1;road\n0;sky\n",
    "CVAT": "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:250,50,83::\n",
    "CamVid": "64 128 64\tsky\n192 0 128\t\troad\n",
    "colour last": "sky 64 128 64\nroad 192 0 128\n",
    "number, name, colour": "0 sky 64 128 64\n1 road 192 0 128\n",
}


@pytest.mark.parametrize("case", SKY_ROAD)
def test_the_names_are_in_the_order_of_their_labels(case: str, make_data_set: MakeDataSet) -> None:
    assert names_of(make_data_set, SKY_ROAD[case]) == ("sky", "road")


@pytest.mark.parametrize(
    "names",
    [
        ("2 wheeler", "car"),
        ("class 1", "class 2"),
        ("#1", "#2"),
        ("a, b", "c"),
        ("Straße", "道路"),
        ("train: high speed", "rail"),
    ],
)
def test_numbers_and_signs_in_names_stay(
    names: tuple[str, ...], make_data_set: MakeDataSet
) -> None:
    assert names_of(make_data_set, "\n".join(names)) == names


def test_the_first_name_of_labelme_is_no_class(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["__ignore__", "_background_", "person"]
    assert names_of(make_data_set, "\n".join(names)) == ("_background_", "person")
    assert "'_background_' has the label 0" in caplog.text
    assert class_names(make_data_set({}, classes=names)) == ("_background_", "person")
    message = message_of(make_data_set, "_background_\n__ignore__\nperson\n")
    assert "labels.txt:2: __ignore__ must be the first name" in message


def test_labels_from_1_need_reduce_zero_label(make_data_set: MakeDataSet) -> None:
    table = "Idx\tRatio\tTrain\tName\n1\t0.15\t11664\twall\n2\t0.1\t6046\tbuilding, edifice\n"
    for content in (table, "1 wall\n2 building, edifice\n"):
        message = message_of(make_data_set, content)
        assert "labels.txt: the labels begin with 1" in message
        assert "data.reduce_zero_label=true" in message
        names = ("wall", "building, edifice")
        assert names_of(make_data_set, content, reduce_zero_label=True) == names
        assert names_of(make_data_set, content, layout="ade20k") == names
    message = message_of(make_data_set, "0 other\n1 wall\n2 door\n", layout="ade20k")
    assert "has a name for label 0, but data.reduce_zero_label ignores it" in message


def test_a_gap_in_the_labels_is_refused(make_data_set: MakeDataSet) -> None:
    assert "labels.txt: has no name for label 1, the next one is 2" in message_of(
        make_data_set, "0 sky\n2 road\n"
    )


def test_a_label_that_occurs_twice_is_refused(make_data_set: MakeDataSet) -> None:
    assert "labels.txt:3: label 0 is also on line 1" in message_of(
        make_data_set, "0 sky\n1 road\n0 car\n"
    )


def test_the_ignored_label_has_no_class(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    assert names_of(make_data_set, "0 sky\n1 road\n255 void\n") == ("sky", "road")
    assert "labels.txt:3: 'void' has the label of data.ignore_index" in caplog.text


def test_a_name_that_occurs_twice_is_refused(make_data_set: MakeDataSet) -> None:
    message = message_of(make_data_set, "sky\nroad\n\nsky\n")
    assert "labels.txt:4: class 'sky' is also on line 1" in message
    with pytest.raises(DataError, match=r"data\.classes: 'a' is the name of the labels 0 and 2"):
        class_names(make_data_set({}, classes=["a", "b", "a"]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("sky,road,car\n", "has all names on one line"),
        ('["sky", "road"]\n', "begins like JSON"),
        ('{\n"sky": 0\n}\n', "begins like JSON"),
        ("<!DOCTYPE html>\n<html>\n", "begins like JSON, XML"),
        ("sky\n", "expected two or more class names, one per line, found 1"),
        ("Straße\nHaus\n".encode("cp1252"), "labels.txt:1: byte 0xdf is not UTF-8"),
        ("id,name\n0,sky\nroad\n", "labels.txt:3: 'road' does not fit the columns"),
    ],
)
def test_lists_in_other_forms_are_refused(
    content: str | bytes, problem: str, make_data_set: MakeDataSet
) -> None:
    assert problem in message_of(make_data_set, content)


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("classes: [yes, no]", "the name of label 0 is the truth value true"),
        ("classes: [bg, no]", "the name of label 1 is the truth value false"),
        ("classes: [bg, 3]", "the name of label 1 is the number 3, not text"),
        ("classes: [bg, ~]", "the name of label 1 is null, not text"),
        ("classes: {0: bg, 1: car}", "expected a list of names in the order of their labels"),
    ],
)
def test_names_that_yaml_reads_as_no_text_are_explained(yaml: str, problem: str) -> None:
    tree, source = parse_yaml(yaml, "config.yaml")
    with pytest.raises(ConfigError) as caught:
        DataConfig.parse(tree, source)
    assert str(caught.value).startswith("config.yaml:1: classes")
    assert problem in str(caught.value)


def test_quoted_names_are_text() -> None:
    tree, source = parse_yaml("classes: ['no', \"3\"]", "config.yaml")
    assert class_names(DataConfig.parse(tree, source)) == ("no", "3")


@pytest.mark.parametrize("names", [[], ["sky"], ["sky", " "]])
def test_a_list_of_names_needs_two_that_are_not_blank(
    names: list[str], make_data_set: MakeDataSet
) -> None:
    with pytest.raises(DataError, match=r"^data\.classes: "):
        class_names(make_data_set({}, classes=names))
