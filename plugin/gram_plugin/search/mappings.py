"""The fields `gram` of an index: applying the component template, checking an index, the calibration in its `_meta`."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gram_plugin.contract.codes import check_generation
from gram_plugin.errors import CalibrationError, CodeError, MappingError, SearchError
from gram_plugin.search.client import asking, reason_of, url_of

if TYPE_CHECKING:  # see client.py
    from opensearchpy import OpenSearch
    from opensearchpy import exceptions as client_errors

TEMPLATE_NAME = "gram-codes"
FIELD = "gram"

Shape = Literal["absent", "partial", "weighted", "keyword"]
"""What an index has of our fields: none, some, all, or all but `weights`."""


@dataclass(frozen=True)
class IndexFields:
    """What an index (or all indices of an alias) offers to the clause.

    Attributes:
        index: the name that was asked for.
        indices: the concrete indices behind it, sorted; empty when it does not exist.
        weighted: whether all of them map `gram.weights`.
        changed: those that were given fields just now.
    """

    index: str
    indices: tuple[str, ...]
    weighted: bool
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexCalibration:
    """How strong codes are in one index; kept in its mapping under `_meta.gram.calibration`.

    Attributes:
        generation: model generation that it was made for.
        strength: what one certain code may count, as a share of `score_scale`; > 0.
        score_scale: typical spread of lexical scores on a page of results, in points; > 0.
        queries: how many queries it was measured on.
        at: when, ISO 8601 in UTC.
    """

    generation: str
    strength: float
    score_scale: float
    queries: int
    at: str

    @property
    def points(self) -> float:
        """λ: the points that one code gives when both its probabilities are 1."""
        return self.strength * self.score_scale


def component_template(*, weighted: bool) -> dict[str, Any]:
    """The body of the component template as it lies in the folder mappings/."""
    return read_mapping_file("gram-codes.json" if weighted else "gram-codes-keyword.json")


def read_mapping_file(name: str) -> dict[str, Any]:
    """One JSON file of the folder mappings/, wherever the package is installed.

    Raises:
        MappingError: the installation lacks it.
    """
    # importlib.resources cannot read a namespace package of an editable installation, its path can be.
    for folder in importlib.import_module("gram_mappings").__path__:
        path = Path(folder) / name
        if path.is_file():
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return document
    raise MappingError(f"the installed gram-opensearch lacks {name}", next_step="install gram-opensearch again")


def apply_template(client: OpenSearch) -> bool:
    """Sends the component template `gram-codes`; the same call twice changes nothing.

    Returns:
        Whether it holds `gram.weights`: false on a server without the field type `rank_features`.

    Raises:
        SearchError: OpenSearch could not be reached or refused it.
    """
    from opensearchpy import exceptions as client_errors

    with asking(client, f"putting the component template {TEMPLATE_NAME}"):
        try:
            client.cluster.put_component_template(name=TEMPLATE_NAME, body=component_template(weighted=True))
        except client_errors.RequestError as error:
            if not _lacks_rank_features(error):
                raise
            client.cluster.put_component_template(name=TEMPLATE_NAME, body=component_template(weighted=False))
            return False
    return True


def apply_to_index(client: OpenSearch, index: str) -> IndexFields:
    """Adds the fields to an index or to every index of an alias; those that have them are left alone.

    Raises:
        MappingError: an index has `gram` in another shape; nothing is changed then, in none of them.
        SearchError: OpenSearch could not be reached or refused it.
    """
    mappings = _mappings(client, index)
    if not mappings:
        return IndexFields(index, (), weighted=True)
    shapes = {name: _shape(name, mapping) for name, mapping in mappings.items()}
    changed = sorted(name for name, shape in shapes.items() if shape in ("absent", "partial"))
    gained = {name: _add_fields(client, name, mappings[name]) for name in changed}
    weighted = all(gained.get(name, shape == "weighted") for name, shape in shapes.items())
    return IndexFields(index, tuple(sorted(shapes)), weighted, tuple(changed))


def check_index(client: OpenSearch, index: str) -> IndexFields:
    """Makes sure that an index, or every index of an alias, has the fields.

    Raises:
        MappingError: there is no such index, or one lacks the fields or has them in another shape.
        SearchError: OpenSearch could not be reached.
    """
    mappings = _mappings(client, index)
    if not mappings:
        raise MappingError(
            f"{url_of(client)} has no index {index!r}", next_step="create it, then run `gram mapping apply` on it"
        )
    shapes = {name: _shape(name, mapping) for name, mapping in mappings.items()}
    lacking = sorted(name for name, shape in shapes.items() if shape in ("absent", "partial"))
    if lacking:
        raise MappingError(
            f"index {', '.join(lacking)} lacks fields of {FIELD!r}", next_step=f"run `gram mapping apply {index}`"
        )
    return IndexFields(index, tuple(sorted(shapes)), all(shape == "weighted" for shape in shapes.values()))


def read_calibration(client: OpenSearch, index: str, *, generation: str | None = None) -> IndexCalibration:
    """The calibration of an index; all indices of an alias must have the same.

    Args:
        client: where to ask.
        index: an index or alias.
        generation: the model generation that will be served; any if None.

    Raises:
        CalibrationError: an index has none, a broken one, or one of another generation, or the indices differ.
        SearchError: OpenSearch could not be reached.
    """
    mappings = _mappings(client, index)
    if not mappings:
        raise CalibrationError(f"{url_of(client)} has no index {index!r}", next_step=_calibrate_step(index))
    found = {name: _calibration_of(name, mapping, index) for name, mapping in mappings.items()}
    if len({(one.generation, one.points) for one in found.values()}) > 1:
        names = ", ".join(sorted(found))
        raise CalibrationError(f"the indices {names} have different calibrations", next_step=_calibrate_step(index))
    calibration = next(iter(found.values()))
    if generation is not None and calibration.generation != generation:
        raise CalibrationError(
            f"index {index} was calibrated for generation {calibration.generation}, the bundle is {generation}",
            next_step=_calibrate_step(index),
        )
    return calibration


def write_calibration(client: OpenSearch, index: str, calibration: IndexCalibration) -> None:
    """Keeps a calibration in the mapping of every index behind `index`; all else in its `_meta` stays.

    Raises:
        SearchError: OpenSearch could not be reached or refused it, or there is no such index.
    """
    mappings = _mappings(client, index)
    if not mappings:
        raise SearchError(f"{url_of(client)} has no index {index!r}", next_step="give the name of an index or alias")
    for name, mapping in mappings.items():
        # put_mapping replaces _meta as a whole, so the rest goes back with it
        meta = dict(mapping.get("_meta") or {})
        ours = meta.get(FIELD)
        meta[FIELD] = {**(ours if isinstance(ours, Mapping) else {}), "calibration": asdict(calibration)}
        with asking(client, f"writing the calibration of {name}"):
            client.indices.put_mapping(index=name, body={"_meta": meta})


def _mappings(client: OpenSearch, index: str) -> dict[str, Mapping[str, Any]]:
    """Mapping by concrete index; empty when there is none."""
    from opensearchpy import exceptions as client_errors

    with asking(client, f"reading the mapping of {index}"):
        try:
            answer = client.indices.get_mapping(index=index)
        except client_errors.NotFoundError:
            return {}
    return {name: entry.get("mappings", {}) for name, entry in answer.items()}


def _shape(name: str, mapping: Mapping[str, Any]) -> Shape:
    """Compares what an index has with what we need.

    Raises:
        MappingError: something of ours is there, but other than we need it.
    """
    found = mapping.get("properties", {}).get(FIELD)
    if found is None:
        return "absent"
    wanted = _wanted(weighted=True)
    properties = found.get("properties")
    if not isinstance(properties, Mapping) or found.get("type", "object") != "object":
        raise _other_shape(name, FIELD, "an object", found.get("type", "object"))
    for key, field in properties.items():
        expected = wanted["properties"].get(key)
        if expected is None:
            raise _other_shape(name, f"{FIELD}.{key}", "no such field", field.get("type", "object"))
        is_unsearchable = field.get("index") is False and expected.get("index") is not False
        if field.get("type") != expected["type"] or is_unsearchable:
            raise _other_shape(name, f"{FIELD}.{key}", expected["type"], json.dumps(field, sort_keys=True))
    missing = set(wanted["properties"]) - set(properties)
    if missing - {"weights"} or found.get("dynamic") != wanted["dynamic"]:
        return "partial"
    return "keyword" if missing else "weighted"


def _wanted(*, weighted: bool) -> dict[str, Any]:
    wanted: dict[str, Any] = component_template(weighted=weighted)["template"]["mappings"]["properties"][FIELD]
    return wanted


def _add_fields(client: OpenSearch, name: str, mapping: Mapping[str, Any]) -> bool:
    """Whether the index now has weights; falls back to keywords alone where the server cannot do more.

    What is there is not sent: an index keeps the `index` and `doc_values` of a field, and refuses others.
    """
    from opensearchpy import exceptions as client_errors

    with asking(client, f"adding the fields of {TEMPLATE_NAME} to {name}"):
        try:
            client.indices.put_mapping(index=name, body=_missing(mapping, weighted=True))
        except client_errors.RequestError as error:
            if not _lacks_rank_features(error):
                raise
            client.indices.put_mapping(index=name, body=_missing(mapping, weighted=False))
            return False
    return True


def _missing(mapping: Mapping[str, Any], *, weighted: bool) -> dict[str, Any]:
    """The mapping that adds the fields which an index has not."""
    wanted = _wanted(weighted=weighted)
    there = mapping.get("properties", {}).get(FIELD, {}).get("properties", {})
    lacking = {key: field for key, field in wanted["properties"].items() if key not in there}
    return {"properties": {FIELD: {**wanted, "properties": lacking}}}


def _lacks_rank_features(error: client_errors.RequestError) -> bool:
    said = f"{reason_of(error)} {error.info}".lower()
    return "no handler for type [rank_features]" in said


def _calibration_of(name: str, mapping: Mapping[str, Any], index: str) -> IndexCalibration:
    ours = (mapping.get("_meta") or {}).get(FIELD)
    document = ours.get("calibration") if isinstance(ours, Mapping) else None
    if document is None:
        raise CalibrationError(f"index {name} is not calibrated", next_step=_calibrate_step(index))
    try:
        calibration = IndexCalibration(**{item.name: document[item.name] for item in fields(IndexCalibration)})
        check_generation(calibration.generation)
        usable = math.isfinite(calibration.points) and calibration.strength > 0 and calibration.score_scale > 0
    except (KeyError, TypeError, CodeError) as error:
        raise _broken_calibration(name, document, index) from error
    if not usable:
        raise _broken_calibration(name, document, index)
    return calibration


def _broken_calibration(name: str, document: Any, index: str) -> CalibrationError:
    return CalibrationError(
        f"the calibration of index {name} is unusable: {json.dumps(document)[:200]}", next_step=_calibrate_step(index)
    )


def _calibrate_step(index: str) -> str:
    return f"run `gram calibrate {index} --queries FILE`"


def _other_shape(name: str, field: str, expected: str, found: str) -> MappingError:
    return MappingError(
        f"index {name} has {field} in another shape: expected {expected}, found {found}",
        next_step=f"reindex into a new index without {field}, then run `gram mapping apply` on that",
    )
