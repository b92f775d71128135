"""Bundles: what is written is read back, and every kind of damage is its own clear error."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    REQUIRED_FILES,
    Curve,
    Graph,
    Manifest,
    Tensor,
    Tokens,
    manifest_checksum,
    open_bundle,
    write_bundle,
    write_calibration,
)
from gram_plugin.contract.codebook import CodebookEntry, write_codebook
from gram_plugin.contract.codes import Code, Role
from gram_plugin.contract.text import TEXT_VERSION, Rendering
from gram_plugin.errors import BundleError

TENSOR = Tensor("input_ids", "tensor(int64)", ("batch", "tokens"))
MADE = Manifest(
    generation="g3",
    architecture="t5",
    rendering=Rendering(("title", "brand")),
    id_field="id",
    tokens=Tokens(0, 1, 0, 100, {"query": (2,), "product": (3,)}, 16, 64),
    graphs={"encoder": Graph("encoder.onnx", (TENSOR,), (TENSOR,))},
    files={},
    created_at="2026-01-01T00:00:00+00:00",
    data_source="a shop",
    data_licence="CC0-1.0",
    figures={"loss": 0.5},
)
CODES = [CodebookEntry(Code.parse(text), 7) for text in ("brand=hp", "type=notebook", "type=notebook|brand=hp")]
CURVES = {role: Curve((-3.0, -1.0, 0.0), (0.1, 0.5, 0.9)) for role in Role}


def stage(folder: Path, codebook: Sequence[CodebookEntry] = CODES) -> Path:
    """A folder with every required file; graphs and tokenizer need only be bytes here."""
    folder.mkdir(parents=True)
    for name in REQUIRED_FILES:
        (folder / name).write_bytes(f"content of {name}".encode())
    write_codebook(folder / "codebook.tsv", codebook)
    write_calibration(folder / "calibration.json", CURVES)
    return folder


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A whole bundle."""
    return write_bundle(stage(tmp_path / "staging"), tmp_path / "bundle", MADE).path


Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def edited(bundle_path: Path) -> Callable[[str, Edit], Path]:
    """Changes a JSON file of the bundle; the manifest is told, so that checksums agree."""

    def edit(name: str, change: Edit) -> Path:
        document = json.loads((bundle_path / name).read_text(encoding="utf-8"))
        change(document)
        (bundle_path / name).write_text(json.dumps(document), encoding="utf-8")
        return signed(bundle_path) if name == MANIFEST else renewed(bundle_path)

    return edit


def renewed(path: Path) -> Path:
    """Writes the manifest again over the files as they are, without opening."""
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in document["files"].items():
        content = (path / name).read_bytes()
        entry.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    (path / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return signed(path)


def signed(path: Path) -> Path:
    """Gives the manifest the checksum of what it says now."""
    document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    document.pop("manifest_sha256")
    document["manifest_sha256"] = manifest_checksum(document)
    (path / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_bundle_is_read_back_as_it_was_written(bundle_path: Path) -> None:
    """Manifest, codebook and curves are equal; staging has become the bundle."""
    bundle = open_bundle(bundle_path)
    assert replace(bundle.manifest, files={}) == MADE
    assert tuple(bundle.codebook) == tuple(CODES)
    assert bundle.calibration == CURVES
    assert set(bundle.manifest.files) == set(REQUIRED_FILES)
    assert not (bundle_path.parent / "staging").exists()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing depends on time or on the order of the codebook."""
    one = write_bundle(stage(tmp_path / "a"), tmp_path / "one", MADE)
    two = write_bundle(stage(tmp_path / "b", CODES[::-1]), tmp_path / "two", MADE)
    for name in (*REQUIRED_FILES, MANIFEST):
        assert one.file(name).read_bytes() == two.file(name).read_bytes()


def test_a_bundle_is_replaced_whole(tmp_path: Path, bundle_path: Path) -> None:
    """The new one takes the place of the old one, and nothing else is left beside it."""
    write_bundle(stage(tmp_path / "again", CODES[:1]), bundle_path, replace(MADE, generation="g4"))
    bundle = open_bundle(bundle_path)
    assert (bundle.manifest.generation, tuple(bundle.codebook)) == ("g4", tuple(CODES[:1]))
    assert [item.name for item in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_bundle_is_not_written_without_a_required_file(tmp_path: Path, name: str) -> None:
    """The message names the file, and no target appears."""
    staging = stage(tmp_path / "staging")
    (staging / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        write_bundle(staging, tmp_path / "bundle", MADE)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", REQUIRED_FILES)
@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
def test_one_flipped_bit_in_any_file_is_found(bundle_path: Path, name: str, at: int) -> None:
    """The message names the file and both checksums."""
    content = bytearray((bundle_path / name).read_bytes())
    content[at] ^= 1
    (bundle_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} has changed: expected \d+ bytes with sha256 [0-9a-f]{{64}}, found"):
        open_bundle(bundle_path)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_manifest_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Wherever it is, the bundle is refused, or the manifest still says the same."""
    path = tmp_path_factory.mktemp("flip") / "bundle"
    whole = write_bundle(stage(path.with_name("staging")), path, MADE)
    content = bytearray((path / MANIFEST).read_bytes())
    content[at % len(content)] ^= 1 << bit
    (path / MANIFEST).write_bytes(content)
    try:
        assert open_bundle(path) == whole
    except BundleError as error:
        assert error.next_step


def test_a_manifest_edited_by_hand_is_refused(bundle_path: Path) -> None:
    """A changed number that would still be read is found by the manifest's own checksum."""
    text = (bundle_path / MANIFEST).read_text(encoding="utf-8")
    (bundle_path / MANIFEST).write_text(text.replace('"decoder_start": 0', '"decoder_start": 1'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json has changed: its own checksum does not fit"):
        open_bundle(bundle_path)


def test_a_graph_without_a_checksum_is_refused(edited: Callable[[str, Edit], Path]) -> None:
    """Every graph that the manifest declares is among its files."""
    path = edited(MANIFEST, lambda manifest: manifest["graphs"]["encoder"].update(file="../other.onnx"))
    with pytest.raises(BundleError, match=r"does not list \.\./other\.onnx"):
        open_bundle(path)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_named(bundle_path: Path, name: str) -> None:
    """Nothing is opened when something is gone."""
    (bundle_path / name).unlink()
    with pytest.raises(BundleError, match=f"bundle file .*{name} is missing"):
        open_bundle(bundle_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    """The manifest is written last: nothing was exported here, or a copy is not whole; both ways out are named."""
    with pytest.raises(BundleError) as empty:
        open_bundle(tmp_path)
    with pytest.raises(BundleError) as absent:
        open_bundle(tmp_path / "absent")
    assert [raised.value.message for raised in (empty, absent)] == [
        f"there is no bundle in {tmp_path}: it has no manifest.json",
        f"there is no bundle in {tmp_path / 'absent'}: there is no such folder",
    ]
    assert "`gram export`" in empty.value.next_step


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle_path: Path, content: bytes) -> None:
    """Whatever the bytes are."""
    (bundle_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"cannot be read as JSON|must hold a JSON object"):
        open_bundle(bundle_path)


@pytest.mark.parametrize(
    ("key", "found", "step"),
    [
        ("format_version", FORMAT_VERSION + 1, "upgrade gram-opensearch"),
        ("format_version", FORMAT_VERSION - 1, "gram export"),
        ("format_version", 0, "gram export"),
        ("format_version", None, "gram export"),
        ("text_version", TEXT_VERSION + 1, "upgrade gram-opensearch"),
    ],
)
def test_another_version_is_refused_with_the_way_out(
    edited: Callable[[str, Edit], Path], key: str, found: object, step: str
) -> None:
    """Newer: upgrade here. Older or unreadable: export again."""
    path = edited(MANIFEST, lambda manifest: manifest.update({key: found}))
    with pytest.raises(BundleError, match=f"{key} is {found}") as caught:
        open_bundle(path)
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(surprise=1),
        lambda manifest: manifest.pop("generation"),
        lambda manifest: manifest.update(generation="third"),
        lambda manifest: manifest["tokens"].pop("eos"),
        lambda manifest: manifest["tokens"].update(surprise=1),
        lambda manifest: manifest["tokens"].update(prompts={"author": [1]}),
        lambda manifest: manifest["rendering"].update(fields=[]),
        lambda manifest: manifest["rendering"].update(max_chars=10**9),
        lambda manifest: manifest.update(graphs={"encoder": {"file": "encoder.onnx"}}),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest["files"].update(extra={"sha256": "x"}),
    ],
)
def test_a_malformed_manifest_is_refused(edited: Callable[[str, Edit], Path], change: Edit) -> None:
    """Unknown keys, missing keys and values of another kind are all named."""
    with pytest.raises(BundleError, match="is malformed"):
        open_bundle(edited(MANIFEST, change))


def test_a_manifest_that_does_not_list_a_required_file_is_refused(edited: Callable[[str, Edit], Path]) -> None:
    """A file without a checksum would go unchecked."""
    with pytest.raises(BundleError, match=r"does not list tokenizer\.json"):
        open_bundle(edited(MANIFEST, lambda manifest: manifest["files"].pop("tokenizer.json")))


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("type=x", "expected code<TAB>products"),
        ("type=x\tmany", "expected code<TAB>products"),
        ("type=x\t-1", "expected code<TAB>products"),
        ("", "expected code<TAB>products"),
        ("Type=x\t1", "is no code"),
        ("brand=a|type=x\t1", "is not canonical"),
    ],
)
def test_a_malformed_codebook_line_is_refused_with_its_number(bundle_path: Path, line: str, finding: str) -> None:
    """The message has file, line and what was found."""
    (bundle_path / "codebook.tsv").write_text(f"brand=hp\t7\n{line}\n", encoding="utf-8")
    with pytest.raises(BundleError, match=rf"codebook\.tsv:2: .*{finding}"):
        open_bundle(renewed(bundle_path))


def test_a_codebook_that_is_not_utf8_is_refused(bundle_path: Path) -> None:
    """Other encodings are no codebook."""
    (bundle_path / "codebook.tsv").write_bytes("type=schön\t1\n".encode("latin-1"))
    with pytest.raises(BundleError, match=r"codebook\.tsv is not UTF-8"):
        open_bundle(renewed(bundle_path))


@pytest.mark.parametrize(
    "curve",
    [
        {"log_probability": [-1, 0], "probability": [0.5, 0.4]},
        {"log_probability": [-1, -1], "probability": [0.4, 0.5]},
        {"log_probability": [0, -1], "probability": [0.4, 0.5]},
        {"log_probability": [-1, 0], "probability": [0.0, 0.5]},
        {"log_probability": [-1, 0], "probability": [0.5, 1.1]},
        {"log_probability": [-1], "probability": [0.5, 0.6]},
        {"log_probability": [], "probability": []},
        {"log_probability": [-1, 0], "probability": [0.5, math.nan]},
        {"log_probability": [-math.inf, 0], "probability": [0.5, 0.6]},
        {"log_probability": "no"},
    ],
)
def test_a_curve_that_does_not_increase_inside_zero_and_one_is_refused(
    edited: Callable[[str, Edit], Path], curve: dict[str, Any]
) -> None:
    """A wrong curve would reorder codes or give weights that OpenSearch refuses."""
    with pytest.raises(BundleError, match=r"calibration\.json is malformed"):
        open_bundle(edited("calibration.json", lambda document: document.update(query=curve)))


def test_each_role_needs_a_curve(edited: Callable[[str, Edit], Path]) -> None:
    """Products and queries are calibrated by themselves."""
    with pytest.raises(BundleError, match=r"calibration\.json is malformed: KeyError\('product'\)"):
        open_bundle(edited("calibration.json", lambda document: document.pop("product")))


def test_a_curve_is_linear_between_its_knots_and_constant_outside() -> None:
    """Whole values, below, between and above."""
    found = CURVES[Role.QUERY].at(np.array([-9.0, -2.0, -1.0, -0.5, 1.0]))
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_a_framed_text_keeps_prompt_and_end_within_the_limit() -> None:
    """The limit counts all tokens; only the text is cut."""
    assert MADE.tokens.framed([7, 8], Role.QUERY) == [2, 7, 8, 1]
    assert MADE.tokens.framed(list(range(10, 99)), Role.QUERY) == [2, *range(10, 24), 1]
    assert len(MADE.tokens.framed(list(range(10, 99)), Role.PRODUCT)) == 64
