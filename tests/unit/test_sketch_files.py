"""The in-memory folders of the built-in runtime, its checkpoints, and values found through unknown nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.local.sketch.comfy_run import needed_nodes
from sdctl.local.sketch.comfy_schema import is_class_name, is_output_class
from sdctl.local.sketch.comfy_values import Bundle, Words, find_number, find_text
from sdctl.local.sketch.files import FileRef, FileStore, OutsideFolderError, file_ref, inside
from sdctl.local.sketch.models import Models


def test_the_oldest_files_of_a_folder_go_first_and_the_newest_stays() -> None:
    store = FileStore(output_bytes=10, input_bytes=10)
    kept = FileRef("input", "", "in")
    store.put(kept, b"123456")
    refs = [FileRef("output", "", str(number)) for number in range(4)]
    for ref in refs:
        store.put(ref, b"1234")
    assert [store.get(ref) is not None for ref in refs] == [False, False, True, True]
    store.put(refs[3], b"x" * 50)
    assert [store.get(ref) is not None for ref in refs] == [False, False, False, True]
    assert store.get(kept) == b"123456"


@given(st.lists(st.sampled_from(["..", ".", "a", "b c", "", "/"]), max_size=6).map("/".join))
def test_no_path_leads_out_of_its_folder(path: str) -> None:
    try:
        clean = inside(path)
    except OutsideFolderError:
        return
    assert not clean.startswith("/")
    assert ".." not in clean.split("/")


def test_names_carry_their_folder_as_comfyui_writes_it() -> None:
    assert file_ref("a/b/c.png") == FileRef("input", "a/b", "c.png")
    assert file_ref("c.png [temp]") == FileRef("temp", "", "c.png")


def test_checkpoints_are_found_by_every_alias_and_by_a_part(tmp_path: Path) -> None:
    models = Models(["sdxl_base.safetensors", "sdxl_base_turbo.safetensors"], tmp_path)
    one = models.closest("sdxl")
    assert one is not None
    assert one.file_name == "sdxl_base.safetensors", "the shortest title wins"
    assert all(models.exactly(alias) is one for alias in one.aliases)
    assert models.closest("sdxl_base.safetensors [0123456789]") is one
    assert models.closest("nosuch") is None
    assert models.closest("") is None


def test_texts_and_numbers_are_found_through_unknown_nodes() -> None:
    seed = Bundle("Seed (rgthree)", {"seed": 7})
    assert find_number(seed, ("noise_seed", "seed")) == 7
    inner = Bundle("ControlNetApply", {"strength": 0.5, "positive": Words("a cat")})
    assert find_text(Bundle("Pipe", {"other": 1, "positive": inner})) == "a cat"
    assert find_text(Bundle("String", {"string": "hello", "id": 3})) == "hello"


def test_bundles_that_hold_themselves_end_the_search() -> None:
    bundle = Bundle("Loop", {})
    bundle.inputs["image"] = bundle
    assert find_text(bundle) is None


@pytest.mark.parametrize(
    ("name", "is_output"),
    [
        ("SaveImage", True), ("PreviewImage", True), ("VHS_VideoCombine", True), ("Image Save", True),
        ("KSampler", False),
        ("easy showAnything", True), ("ConditioningCombine", False), ("SomeonesSaveImagePlus", True),
        ("Preview Chooser", True),
        ("ModelSave", False), ("VAEDecode", False),
    ],
)  # fmt: skip
def test_output_nodes_are_known_by_their_names(name: str, is_output: bool) -> None:
    assert is_output_class(name) is is_output


@pytest.mark.parametrize(
    "name", [None, 3, "", " x", "a\nb", "Note", "Reroute", "0b8f3a52-0000-4000-8000-000000000001", "x" * 201]
)
def test_what_no_server_knows_is_no_class_name(name: object) -> None:
    assert not is_class_name(name)


def test_a_chain_of_thousands_of_nodes_is_ordered_without_recursion() -> None:
    graph = {str(n): {"inputs": {"image": [str(n - 1), 0]} if n else {}} for n in range(5000)}
    assert needed_nodes(graph, ["4999"]) == [str(n) for n in range(5000)]
