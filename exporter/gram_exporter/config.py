"""The settings of the workshop: `gram.toml` as frozen dataclasses, read strictly and written with comments."""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gram_plugin.contract.codes import MAX_ATTRIBUTES, MAX_PRODUCT_CODES, check_generation
from gram_plugin.errors import CodeError, ConfigError

DEFAULT_URL = "http://localhost:9200"
SEARCH_TYPES = ("cross_fields", "best_fields", "most_fields")
OPERATORS = ("or", "and")

_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_Section = TypeVar("_Section")


def _setting(
    doc: str, default: Any = MISSING, *, low: float | None = None, high: float | None = None, among: Any = ()
) -> Any:
    """A field whose meaning and bounds stand beside it: errors, gram.toml and docs all read them."""
    facts = {"doc": doc, "low": low, "high": high, "among": among}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=facts)
    return field(metadata=facts) if default is MISSING else field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig:
    """Where the products are and which of their fields are read."""

    path: Path | None = _setting("file of products: JSONL, CSV or TSV, plain or .gz; or else `index`", None)
    index: str | None = _setting("index of products at `url`, instead of `path`", None)
    url: str = _setting("OpenSearch that holds `index`", DEFAULT_URL)
    id: str = _setting("field with the product's id, unique")
    text: tuple[str, ...] = _setting("fields that the model reads, in this order; the first is the title")
    source: str = _setting("where the data comes from; kept in every bundle made from it", "")
    licence: str = _setting("licence of the data; kept in every bundle made from it", "")
    attributes: Mapping[str, str] = _setting(
        "field = attribute type: one of the 16 of GRAM or an own lower-case name", {}
    )


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """What people judged or clicked; all optional."""

    judgments: Path | None = _setting("query,docid,rating as CSV or TSV, or TREC qrels", None)
    queries: Path | None = _setting("texts of the query ids in TREC qrels: qid<TAB>text", None)
    clicks: tuple[Path, ...] = _setting("UBI queries and UBI events, two ndjson files", ())


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """Which combinations of attributes become codes."""

    min_products: int = _setting("fewest products that share a code", 2, low=1)
    max_attributes: int = _setting("most attributes in a code", 2, low=1, high=MAX_ATTRIBUTES)
    max_per_product: int = _setting("most codes of one product", MAX_PRODUCT_CODES, low=1, high=64)
    max_terms: int = _setting("most title words that may become attributes, where fields give few", 2000, low=0)
    max_share: float = _setting("largest part of all products that may share a code", 0.5, low=1e-6, high=1.0)
    max_codes: int = _setting("most codes in the codebook", 250_000, low=1, high=10_000_000)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the model is built and trained."""

    generation: str = _setting("model generation; raise it for a model that is to replace a served one", "g1")
    minutes: float = _setting(
        "training time of the generator in minutes; the linear arm takes about one more", 3.0, low=0.01, high=10_080.0
    )
    steps: int = _setting("training steps; 0 means as many as fit into `minutes`", 0, low=0)
    seed: int = _setting("seed of every random choice", 0, low=0, high=2**31 - 1)
    checkpoint: Path | None = _setting(
        "folder of a pretrained model to begin with: T5, mT5, BART, or an encoder such as BERT or MiniLM", None
    )
    checkpoint_rate: float = _setting(
        "learning rate of pretrained weights, times `learning_rate`", 0.05, low=0.0, high=100.0
    )
    d_model: int = _setting("width of the model", 192, low=32, high=4096)
    encoder_layers: int = _setting("layers of the encoder", 3, low=1, high=48)
    decoder_layers: int = _setting("layers of the decoder", 1, low=1, high=48)
    vocabulary: int = _setting("text tokens of the tokenizer", 8000, low=512, high=250_000)
    dropout: float = _setting("part of activations dropped in training", 0.05, low=0.0, high=0.9)
    batch_texts: int = _setting("texts in one batch", 64, low=2, high=65_536)
    learning_rate: float = _setting("peak learning rate", 1e-3, low=1e-8, high=1.0)
    embedding_rate: float = _setting("learning rate of the embeddings, times `learning_rate`", 3.0, low=0.0, high=100.0)
    product_weight: float = _setting("λ of L_q + λ·L_t, the product side's weight", 1.0, low=0.0, high=1000.0)
    cotrain_steps: int = _setting(
        "steps of co-training, in which both sides learn codes that either writes; 0 leaves it out",
        0,
        low=0,
        high=10**6,
    )
    linear_steps: int = _setting("steps of the linear arm, 256 queries each; 0 leaves it out", 800, low=0, high=10**7)
    linear_width: int = _setting("width of the linear arm", 96, low=8, high=1024)
    align_steps: int = _setting(
        "most steps that align the linear arm with what its codes recall; 0 leaves alignment out",
        100,
        low=0,
        high=10**6,
    )
    prefer_steps: int = _setting(
        "most steps that align the generator with what its codes recall; 0 leaves it out", 40, low=0, high=10**6
    )
    nearest_share: float | None = _setting(
        "part of the nearest asked queries in the linear arm, 0 to 1; what held-out feedback says when left out",
        None,
        low=0.0,
        high=1.0,
    )
    holdout: float = _setting("part of the texts kept out of training, for calibration", 0.1, low=0.01, high=0.5)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The lexical query of the index's owner, which the clause is added to."""

    index: str | None = _setting("index that is searched", None)
    type: str = _setting("multi_match type", "cross_fields", among=SEARCH_TYPES)
    fields: tuple[str, ...] = _setting("searched fields with their boosts, such as title^3", ())
    operator: str = _setting("must one word match, or all", "or", among=OPERATORS)
    fuzzy: float = _setting("weight of a second match that forgives misspellings; 0 has none", 0.0, low=0.0, high=10.0)
    strength: float | None = _setting(
        "share of the index's score scale that a certain code may count; tuned, or a default, when left out",
        None,
        low=1e-6,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole `gram.toml`; all paths are absolute or relative to where the program runs."""

    catalogue: CatalogueConfig
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    codes: CodesConfig = field(default_factory=CodesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)


SECTIONS: Mapping[str, type] = {
    "catalogue": CatalogueConfig,
    "feedback": FeedbackConfig,
    "codes": CodesConfig,
    "training": TrainingConfig,
    "search": SearchConfig,
}


def load_config(path: Path) -> Config:
    """Reads `gram.toml`; relative paths in it are taken from its own folder.

    Raises:
        ConfigError: the file is no TOML, has an unknown key, or a value of a wrong type or out of
            bounds; the message names file, line, section and key.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", next_step="make it with `gram init CATALOGUE`"
        ) from error
    except ValueError as error:  # TOML syntax and UTF-8 errors alike
        raise ConfigError(f"{path} is no TOML: {error}", next_step="mend it, or make it with `gram init`") from error
    reader = _Reader(path, text)
    reader.check_keys(document, tuple(SECTIONS), "")
    parsed: dict[str, Any] = {name: reader.section(name, cls, document.get(name, {})) for name, cls in SECTIONS.items()}
    config = Config(**parsed)
    _check(config, reader)
    return config


def render_config(config: Config, *, folder: Path | None = None, notes: Mapping[str, str] | None = None) -> str:
    """Writes the text of a `gram.toml` that `load_config` reads back as equal.

    Args:
        config: what to write; settings that are None are written as comments.
        folder: paths inside it are written relative to it, so the file must be put there.
        notes: comments by `section.key` or `catalogue.attributes.FIELD`, in place of the setting's own.
    """
    writer = _Writer(folder, notes or {})
    return "\n\n".join("\n".join(writer.section(name, getattr(config, name))) for name in SECTIONS) + "\n"


def render_search(search: SearchConfig) -> str:
    """The section `[search]` of a gram.toml."""
    return "\n".join(_Writer(None, {}).section("search", search))


class _Reader:
    """Turns TOML tables into sections and words its findings with file and line."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._lines = path, text.splitlines()

    def section(self, name: str, cls: type[_Section], table: Any) -> _Section:
        if not isinstance(table, dict):
            raise self.error(name, "", f"[{name}] must be a table, found {_found(table)}")
        known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
        self.check_keys(table, tuple(known), name)
        for key, item in known.items():
            if key not in table and item.default is MISSING and item.default_factory is MISSING:
                raise self.error(name, "", f"[{name}] lacks {key!r}: {item.metadata['doc']}")
        hints = get_type_hints(cls)
        return cls(**{key: self._value(name, known[key], hints[key], value) for key, value in table.items()})

    def check_keys(self, table: Mapping[str, Any], known: tuple[str, ...], section: str) -> None:
        for key in table:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                what = f"unknown key {key!r} in [{section}]" if section else f"unknown section [{key}]"
                step = f"did you mean {nearest!r}? Known here: {', '.join(known)}"
                raise self.error(section or key, key if section else "", what, step)

    def error(self, section: str, key: str, finding: str, step: str = "see docs/gram-toml.md") -> ConfigError:
        line = self._line_of(section, key)
        return ConfigError(f"{self._path}{f':{line}' if line else ''}: {finding}", next_step=step)

    def _value(self, section: str, item: Field[Any], hint: Any, value: Any) -> Any:
        kind = _KINDS[str(hint)]
        if not kind.fits(value):
            raise self.error(section, item.name, f"[{section}] {item.name} must be {kind.words}, found {_found(value)}")
        if fault := _out_of_bounds(item, value):
            raise self.error(section, item.name, f"[{section}] {item.name} must be {fault}, found {_found(value)}")
        return kind.make(value, self._path.parent)

    def _line_of(self, section: str, key: str) -> int | None:
        inside = False
        for number, line in enumerate(self._lines, start=1):
            head = line.split("#")[0].strip()
            if head.startswith("["):
                inside = head.strip("[] ").split(".")[0] == section
                if inside and (not key or head.strip("[] ").endswith(f".{key}")):
                    return number
            elif inside and head.partition("=")[0].strip().strip("\"'") == key:
                return number
        return None


@dataclass(frozen=True)
class _Kind:
    """How values of one annotation look in TOML and become Python."""

    words: str
    fits: Callable[[Any], bool]
    make: Callable[[Any, Path], Any]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_TEXT = _Kind("a text", _is_text, lambda value, folder: value)
_NUMBER = _Kind("a number", _is_number, lambda value, folder: float(value))
_KINDS: Mapping[str, _Kind] = {
    str(str): _Kind("a text", lambda value: isinstance(value, str), lambda value, folder: value),
    str(str | None): _TEXT,
    str(int): _Kind("a whole number", _is_whole, lambda value, folder: value),
    str(float): _NUMBER,
    str(float | None): _NUMBER,
    str(Path | None): _Kind("a path", _is_text, lambda value, folder: folder / value),
    str(tuple[str, ...]): _Kind("a list of different texts", _is_texts, lambda value, folder: tuple(value)),
    str(tuple[Path, ...]): _Kind(
        "a list of different paths", _is_texts, lambda value, folder: tuple(folder / item for item in value)
    ),
    str(Mapping[str, str]): _Kind("a table of field = type", _is_table_of_texts, lambda value, folder: value),
}


def _found(value: Any) -> str:
    names = {bool: "the boolean", str: "the text", int: "the number", float: "the number", list: "the list"}
    name = names.get(type(value), f"the {type(value).__name__}")
    return f"{name} {json.dumps(value, ensure_ascii=False, default=str)[:80]}"


def _out_of_bounds(item: Field[Any], value: Any) -> str | None:
    low, high, among = item.metadata["low"], item.metadata["high"], item.metadata["among"]
    if among and value not in among:
        return f"one of {', '.join(among)}"
    if low is not None and value < low:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None and value > high else None


def _check(config: Config, reader: _Reader) -> None:
    """The rules that tie settings together."""
    catalogue, feedback = config.catalogue, config.feedback
    if (catalogue.path is None) == (catalogue.index is None):
        raise reader.error("catalogue", "", "[catalogue] must name either a path or an index")
    if not catalogue.text:
        raise reader.error("catalogue", "text", "[catalogue] text must name at least one field")
    if not catalogue.id:
        raise reader.error("catalogue", "id", "[catalogue] id must name a field")
    for name, type_name in catalogue.attributes.items():
        if not _TYPE_NAME.fullmatch(type_name):
            raise reader.error(
                "catalogue",
                name,
                f"[catalogue.attributes] type {type_name!r} of field {name!r} is not a lower-case identifier",
                "use letters a-z, digits and _, for example 'screen_size'",
            )
    if len(feedback.clicks) not in (0, 2):
        raise reader.error("feedback", "clicks", "[feedback] clicks must be two files: UBI queries, then UBI events")
    try:
        check_generation(config.training.generation)
    except CodeError as error:
        raise reader.error("training", "generation", f"[training] {error.message}") from error


class _Writer:
    """Writes sections as TOML with a comment for each setting."""

    def __init__(self, folder: Path | None, notes: Mapping[str, str]) -> None:
        self._folder, self._notes = folder, notes

    def section(self, name: str, section: Any) -> Iterator[str]:
        yield f"[{name}]  # {section.__doc__}"
        tables = []
        for item in fields(section):
            value = getattr(section, item.name)
            if isinstance(value, Mapping):
                tables.append(item)
            else:
                note = self._notes.get(f"{name}.{item.name}", item.metadata["doc"])
                yield f"{self._pair(item, value)}  # {_comment(note)}"
        for item in tables:
            yield from self._table(f"{name}.{item.name}", item, getattr(section, item.name))

    def _table(self, place: str, item: Field[Any], table: Mapping[str, str]) -> Iterator[str]:
        yield f"\n[{place}]  # {item.metadata['doc']}"
        for key, value in table.items():
            note = self._notes.get(f"{place}.{key}")
            yield f"{_key(key)} = {_text(value)}" + (f"  # {_comment(note)}" if note else "")

    def _pair(self, item: Field[Any], value: Any) -> str:
        return f"# {item.name} =" if value is None else f"{item.name} = {self._literal(value)}"

    def _literal(self, value: Any) -> str:
        if isinstance(value, tuple):
            return "[" + ", ".join(map(self._literal, value)) + "]"
        if isinstance(value, Path):
            inside = self._folder is not None and value.is_relative_to(self._folder)
            return _text((value.relative_to(self._folder) if inside and self._folder else value).as_posix())
        return _text(value) if isinstance(value, str) else repr(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for DEL


def _comment(note: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in note).split())
