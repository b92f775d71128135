"""What the name of a catalogue field says about it: words of shops in several languages, as data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from gram_plugin.contract.codes import fold

MAX_TYPE_CHARS = 32

ID_NAMES = (
    "id", "_id", "product id", "sku", "asin", "item id", "item number", "article number", "artikelnummer",
    "artikelnr", "artnr", "produkt id", "référence", "ref", "referencia", "codice", "code", "uid", "uuid", "handle",
    "slug", "gtin", "ean", "isbn", "upc", "doc id", "docid", "document id", "编号", "商品id", "商品编号", "商品番号",
)  # fmt: skip
TITLE_NAMES = (
    "title", "product title", "product name", "item name", "name", "titel", "produktname", "produkttitel",
    "artikelname", "bezeichnung", "artikelbezeichnung", "produktbezeichnung", "titre", "nom", "nom du produit",
    "título", "titulo", "nombre", "titolo", "nome", "naam", "productnaam", "nazwa", "tytuł", "namn", "benämning",
    "navn", "headline", "label", "标题", "商品标题", "商品名称", "名称", "品名", "商品名", "製品名", "タイトル",
    "名前",
)  # fmt: skip
SUMMARY_NAMES = (
    "short description", "subtitle", "sub title", "summary", "tagline", "teaser", "kurzbeschreibung", "untertitel",
    "description courte", "sous titre", "résumé", "descripción corta", "subtítulo", "descrizione breve",
    "sottotitolo", "korte omschrijving", "krótki opis", "副标题", "卖点", "キャッチコピー",
)  # fmt: skip
DESCRIPTION_NAMES = (
    "description", "product description", "long description", "overview", "body", "body html", "text", "content",
    "details", "bullet points", "bullets", "highlights", "plot", "abstract", "beschreibung", "produktbeschreibung",
    "artikelbeschreibung", "langtext", "langbeschreibung", "descriptif", "descripción", "detalles", "descrizione",
    "omschrijving", "productomschrijving", "opis", "beskrivning", "beskrivelse", "描述", "商品描述", "详情", "説明",
    "商品説明", "内容",
)  # fmt: skip

CATEGORY_NAMES: Mapping[str, float] = {
    **dict.fromkeys((
        "product type", "category", "product category", "article type", "item type", "subcategory", "genre",
        "produktart", "produkttyp", "artikelart", "warengruppe", "kategorie", "produktkategorie", "unterkategorie",
        "type de produit", "catégorie", "tipo de producto", "categoría", "categoria", "tipo di prodotto",
        "productgroep", "productsoort", "kategoria", "rodzaj", "kategori", "类别", "品类", "分类", "类目", "カテゴリ",
        "カテゴリー", "種類", "product class", "product group", "google product category", "taxonomy",
    ), 1.0),
    **dict.fromkeys(("department", "abteilung", "rayon", "departamento", "reparto", "section", "collection type"), 0.7),
    **dict.fromkeys(("type", "typ", "tipo", "class", "kind", "group", "art", "soort"), 0.5),
}  # fmt: skip
"""Names of the field that says what a product is, with how surely they do."""

WHOLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "brand": (
        "brand", "manufacturer", "maker", "supplier", "vendor", "designer", "marke", "hersteller", "lieferant",
        "marque", "fabricant", "fournisseur", "marca", "fabricante", "proveedor", "produttore", "merk", "fabrikant",
        "marka", "producent", "varumärke", "tillverkare", "品牌", "厂商", "制造商", "ブランド", "メーカー",
    ),
    "series": (
        "series", "product line", "line", "product family", "family", "collection", "range", "serie", "baureihe",
        "produktlinie", "kollektion", "série", "gamme", "colección", "línea", "linea", "collezione", "seria", "系列",
        "シリーズ", "franchise",
    ),
    "model": ("model", "modell", "modèle", "modelo", "modello", "model number", "型号", "モデル", "型番"),
    "audience": (
        "audience", "gender", "target gender", "sex", "age group", "target group", "zielgruppe", "geschlecht",
        "altersgruppe", "sexe", "público", "género", "sesso", "pubblico", "doelgroep", "geslacht", "płeć", "性别",
        "适用人群", "対象", "性別",
    ),
}  # fmt: skip
"""Names that mean a type only when they stand alone: a processor's manufacturer is not the product's."""

HEAD_NAMES: Mapping[str, tuple[str, ...]] = {
    "function": (
        "function", "functionality", "purpose", "feature", "merkmal", "特点", "特徴", "funktion", "verwendungszweck",
        "fonction", "función", "funzione", "functie", "功能", "機能",
    ),
    "material": (
        "material", "fabric", "composition", "stoff", "werkstoff", "gewebe", "matière", "matériau", "tissu", "tejido",
        "materiale", "tessuto", "materiaal", "materiał", "材质", "材料", "面料", "素材",
    ),
    "style": (
        "style", "design", "pattern", "fit", "neckline", "shape", "finish", "stil", "muster", "passform", "motif",
        "estilo", "diseño", "stile", "fantasia", "stijl", "styl", "风格", "款式", "图案", "スタイル", "デザイン",
        "柄",
    ),
    "colour": (
        "colour", "color", "farbe", "farbton", "couleur", "coloris", "colore", "cor", "kleur", "kolor", "färg",
        "farve", "颜色", "色", "カラー",
    ),
    "sales_spec": (
        "size", "pack", "pieces", "pack size", "package quantity", "volume", "größe", "packungsgröße", "inhalt",
        "taille", "contenance", "talla", "tamaño", "taglia", "misura", "maat", "rozmiar", "storlek", "尺码", "规格",
        "尺寸", "サイズ", "容量規格",
    ),
    "technical_spec": (
        "technical spec", "memory", "storage", "power", "battery", "length", "width", "height", "diameter", "weight",
        "gewicht", "länge", "speicher", "specification", "technology", "resolution", "capacity", "connectivity",
        "voltage", "wattage", "technik", "technologie", "auflösung", "kapazität", "leistung", "résolution",
        "capacité", "tecnología", "resolución", "capacidad", "tecnologia", "risoluzione", "capacità", "参数", "技术",
        "容量", "解像度",
    ),
    "time": (
        "year", "season", "decade", "era", "jahr", "saison", "jahreszeit", "année", "temporada", "año", "stagione",
        "anno", "seizoen", "jaar", "sezon", "rok", "季节", "年份", "季節", "年",
    ),
    "scenario": (
        "scenario", "occasion", "use case", "usage", "room", "room type", "sport", "activity", "anlass", "raum",
        "einsatzbereich", "sportart", "aktivität", "activité", "ocasión", "habitación", "occasione", "stanza",
        "gelegenheid", "okazja", "场景", "场合", "シーン", "用途",
    ),
    "modifier": (
        "condition", "property", "flavour", "flavor", "scent", "eigenschaft", "zustand", "geschmack", "duft",
        "caractéristique", "goût", "parfum", "característica", "sabor", "aroma", "caratteristica", "gusto", "kenmerk",
        "smaak", "cecha", "smak", "口味", "味",
    ),
    "marketing": ("promotion", "badge", "claim", "campaign", "aktion", "siegel", "award", "kampagne", "营销", "活动"),
    "other": (
        "tag", "keyword", "topic", "theme", "subject", "schlagwort", "stichwort", "thema", "mot clé", "thème",
        "etiqueta", "palabra clave", "tema", "parola chiave", "trefwoord", "标签", "关键词", "タグ", "キーワード",
    ),
}  # fmt: skip
"""Names that mean a type as the last word too: a jacket's material is a material."""

NO_ATTRIBUTE_NAMES = (
    "merchant", "seller", "händler", "price", "preis", "prix", "precio", "prezzo", "prijs", "cena", "价格", "価格",
    "currency", "währung", "stock", "availability", "inventory", "status", "rating", "review", "vote", "popularity",
    "rank", "score", "url", "link", "image", "img", "picture", "photo", "thumbnail", "bild", "date", "created",
    "updated", "modified", "timestamp", "datum", "ean", "gtin", "upc", "isbn", "asin", "sku", "mpn", "language",
    "locale", "lang", "sprache", "hash",
)  # fmt: skip
"""Words of names that nobody searches products by."""

_EMPTY_WORDS = (
    "attr attribute attributes t n b s p spec specs facet facets filter field fields prop props custom main primary "
    "value values raw product products item article artikel produkt produit producto prodotto source"
)
_STRIPPED = frozenset(_EMPTY_WORDS.split())
_PART = re.compile(r"[A-ZÀ-Þ]+(?![a-zß-ÿ])|[A-ZÀ-Þ]?[^\W\d_A-ZÀ-Þ]+|\d+")
_MIN_SUFFIX_CHARS = 5
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def words_of(field: str) -> tuple[str, ...]:
    """Words of a field name in comparable form: `attr_t_productColours` → attr, t, product, colour."""
    return tuple(map(_singular, _plain_words(field)))


def core_words(field: str) -> tuple[str, ...]:
    """The words that tell: of a dotted path the last part, without `attr`, `product` and their like."""
    words = words_of(field.rpartition(".")[2])
    kept = tuple(word for word in words if word not in _STRIPPED and word + "s" not in _STRIPPED)
    if kept in ((), ("name",)) and "." in field:
        return core_words(field.rpartition(".")[0])
    return kept[:-1] if len(kept) > 1 and kept[-1] == "name" else kept or words


def name_rank(field: str, names: tuple[str, ...]) -> int | None:
    """Position of a field's name in a list of names, best first; None if it is not there."""
    parents, _, last = field.rpartition(".")
    if not set(_plain_words(parents)) <= _STRIPPED:  # the name of a brand is not the product's
        return None
    forms = {words_of(last), _without_affixes(words_of(last))}
    return min((at for at, name in enumerate(_split_names(names)) if name in forms), default=None)


def category_certainty(field: str) -> float:
    """How surely the name means the category of a product, 0 to 1."""
    words, bare = words_of(field.rpartition(".")[2]), core_words(field)
    forms = {words, _without_affixes(words), bare}
    forms |= {form[:-1] for form in forms if form[-1:] == ("name",)}
    known = dict(zip(_split_names(tuple(CATEGORY_NAMES)), CATEGORY_NAMES.values(), strict=True))
    compound = any(_ends_with(bare, name) for name, certainty in known.items() if certainty == 1.0)
    return max(0.6 if compound else 0.0, *(known.get(form, 0.0) for form in forms))


def named_type(field: str) -> str | None:
    """GRAM type that the name of a field means, the category aside."""
    bare = core_words(field)
    if standalone := standalone_type(field):
        return standalone
    for type_name, names in HEAD_NAMES.items():
        if any(bare[-len(words_of(name)) :] == words_of(name) or _ends_with(bare, words_of(name)) for name in names):
            return type_name
    return None


def standalone_type(field: str) -> str | None:
    """GRAM type that is the whole of a field's name: `size`, and not `die_size`."""
    bare = core_words(field)
    whole = {**HEAD_NAMES, **WHOLE_NAMES}
    return next((type_name for type_name, names in whole.items() if bare in _split_names(names)), None)


def is_no_attribute(field: str) -> bool:
    """Whether the name means prices, dates, links, numbers of articles and the like."""
    words = words_of(field.rpartition(".")[2])
    excluded = {words_of(name)[0] for name in NO_ATTRIBUTE_NAMES}
    return any(word in excluded for word in words) or words[-1:] in {("id",), ("nr",), ("number",), ("key",), ("uuid",)}


def own_type(field: str, taken: Iterable[str]) -> str:
    """A lower-case identifier made from the field's name, none of those `taken`."""
    words = _plain_words(field.rpartition(".")[2])
    core = tuple(word for word in words if word not in _STRIPPED)
    for candidate in (core, tuple("kind" if word == "type" else word for word in core), words, ("field", *words)):
        slug = (
            "_".join(re.findall(r"[a-z0-9]+", " ".join(candidate))).lstrip("_0123456789")[:MAX_TYPE_CHARS].rstrip("_")
        )
        if slug not in {"", "field", *taken}:
            return slug
    return "field_" + "_".join(f"{ord(character):x}" for character in field[:6])


def _without_affixes(words: tuple[str, ...]) -> tuple[str, ...]:
    plain = {"attr", "attribute", "t", "s", "field", "prop", "p", "facet"}
    return tuple(word for word in words if word not in plain)


def _ends_with(words: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Whether a compound such as `hauptfarbe` or 商品颜色 ends in a one-word name."""
    if not words or len(name) != 1:
        return False
    long_enough = len(name[0]) >= (2 if _CJK.match(name[0]) else _MIN_SUFFIX_CHARS)
    return long_enough and words[-1].endswith(name[0])


@cache
def _split_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(words_of(name) for name in names)


def _plain_words(field: str) -> tuple[str, ...]:
    return tuple(_plain(part) for part in _PART.findall(unicodedata.normalize("NFC", field)))


@cache
def _plain(word: str) -> str:
    """Folded and without accents."""
    decomposed = unicodedata.normalize("NFKD", fold(word))
    return unicodedata.normalize("NFKC", "".join(c for c in decomposed if unicodedata.category(c) != "Mn"))


def _singular(word: str) -> str:
    """Without the commonest endings of plurals; wrong for some words, but alike on both sides of a comparison."""
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    if word.endswith("en") and len(word) > 5:
        return word[:-1]
    return word[:-1] if word.endswith("s") and len(word) > 3 else word
