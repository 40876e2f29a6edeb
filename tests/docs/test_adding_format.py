"""docs/adding/format.md: the format on the page is a member of the family when it is installed, and changes nothing for those who do not
name it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest
import torch

import sparsecc
from sparsecc import formats, registry
from sparsecc.formats.base import Format
from tests.graph import onnx_models as models
from tests.laws import test_formats
from tests.packages import installed
from tests.tolerance import assert_close
from tools.reference import DOCS

PAGE = (DOCS / "adding" / "format.md").read_text()
FILES = dict(re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', PAGE, re.DOTALL))
PRUNE = {"prune": {"sparsity": 0.7, "min_weights": 1}}
LAWS = [law for name, law in vars(test_formats).items() if name.startswith("test_")]


def converted(*passes: Any) -> tuple[onnx.ModelProto, sparsecc.Report]:
    return sparsecc.convert(models.mlp(), {"passes": [PRUNE, *passes]})


@pytest.fixture(scope="module")
def before() -> bytes:
    return converted("pack")[0].SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def bitmask(before: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Format]:
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]["sparsecc.formats"]
    written = "[sparsecc.formats]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    with installed(tmp_path_factory.mktemp("site") / "package", "mine", written, {"bitmask": FILES["bitmask.py"]}):
        yield formats.from_key("bitmask")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_it_obeys_the_laws_of_formats(law: Callable[..., None], bitmask: Format) -> None:
    dtypes = [{"dtype": torch.float32}, {"dtype": torch.int8}] if "dtype" in law.__annotations__ else [{}]
    for options in dtypes:
        law(format=bitmask, **options)


def test_its_own_test_passes(bitmask: Format) -> None:
    page: dict[str, Any] = {}
    exec(compile(FILES["test_bitmask.py"], "format.md", "exec"), page)
    [test] = (value for name, value in page.items() if name.startswith("test_"))
    test()


def test_it_is_a_member_by_its_name(bitmask: Format) -> None:
    assert registry.members("formats") == ["bitmask", "block", "csr", "nm"]
    assert [f"bitmask{parameters}" for parameters in type(bitmask).examples] == [bitmask.key]


def test_files_of_recipes_that_do_not_name_it_stay_as_they_were(bitmask: Format, before: bytes) -> None:
    assert converted("pack")[0].SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("quantize", [(), ({"quantize": {"min_weights": 1}},)], ids=["float32", "int8"])
def test_a_recipe_that_names_it_has_it_in_the_file(bitmask: Format, quantize: tuple[Any, ...]) -> None:
    proto, report = converted(*quantize, {"pack": {"formats": ["bitmask"]}})
    masked, _ = converted(*quantize)
    packed = [site for site in report.sites if site.format is not None and site.format.endswith("bitmask")]
    assert packed and all(site.pattern == "unstructured" for site in packed)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)).numpy()
    ours, theirs = (torch.from_numpy(models.run(found, x=x)[0]) for found in (proto, masked))
    assert_close(ours, theirs)
