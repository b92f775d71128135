"""Training that begins with a checkpoint of Hugging Face, from its folder to a bundle that serves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file
from test_train import CONFIG, PRODUCTS, SETTINGS, WANTED
from transformers import GPT2Config, GPT2LMHeadModel

from gram_exporter.config import TrainingConfig
from gram_exporter.losses import code_nll
from gram_exporter.model import TokenLimits, input_ids, padded
from gram_exporter.package import export_bundle
from gram_exporter.pretrained import Pretrained, is_pretrained, load_writer
from gram_exporter.record import MODEL, read_record
from gram_exporter.train import train
from gram_exporter.warm import NOISE
from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codes import Attribute, Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import TrainingError

KINDS = {"bert": "bert+t5", "roberta": "roberta+t5", "t5": "t5", "mt5": "mt5", "tied-mt5": "mt5", "bart": "bart"}
TEXTS = [*(product["title"] for product in PRODUCTS.values()), "couch"] * 3
ATTRIBUTES = [Attribute.of("type", name) for name in ("lamp", "sofa", "table")]
LIMITS = TokenLimits(16, 24)


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of every kind; tests must not change it."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / request.param, request.param, TEXTS)


def _settings(checkpoint: Path, **changes: float) -> TrainingConfig:
    return dataclasses.replace(SETTINGS, checkpoint=checkpoint, checkpoint_rate=1.0, **changes)  # type: ignore[arg-type]


def test_every_kind_learns_and_serves(checkpoint: Path, tmp_path: Path) -> None:
    """The loss falls, the graphs that optimum writes say what torch says, and the bundle finds codes for a text."""
    settings = _settings(checkpoint, steps=40, learning_rate=3e-3)
    record = train(PRODUCTS, WANTED, dataclasses.replace(CONFIG, training=settings), tmp_path / "training")
    assert record.architecture == read_record(tmp_path / "training").architecture == KINDS[checkpoint.name]
    assert record.figures["loss_last"] < 0.8 * record.figures["loss_first"]
    export_bundle(tmp_path / "training", tmp_path / "bundle", precision="fp32", share=0.0)
    codes = OnnxGenerator.open(tmp_path / "bundle").generate(["blue sofa", ""], Role.QUERY)
    assert len(codes[0]) > 3 and codes[1] == []


def test_the_loss_equals_a_slow_reference(checkpoint: Path) -> None:
    """All codes of all texts at once cost what they cost one by one through the model's own forward pass."""
    begun = Pretrained.open(checkpoint)
    tokens = begun.tokens(LIMITS)
    model = begun.model(ATTRIBUTES, tokens, SETTINGS).eval()
    first = tokens.first_attribute
    rows = input_ids(begun.tokenizer, ["a blue sofa", "lamp"], Role.QUERY, tokens)
    codes = [[first, first + 1, tokens.eos], [first + 2, tokens.eos], [first + 1, tokens.eos], [first, tokens.eos]]
    with torch.no_grad():
        found = code_nll(model, padded(rows, tokens.pad), padded(codes, tokens.pad).view(2, 2, -1), special=tokens)
        each = [_nll(model, rows[at // 2], code, tokens) for at, code in enumerate(codes)]
    torch.testing.assert_close(found, torch.as_tensor(sum(each) / len(each)), rtol=1e-4, atol=1e-4)


def _nll(model: torch.nn.Module, row: list[int], code: list[int], tokens: Tokens) -> float:
    before = torch.tensor([[tokens.decoder_start, *code[:-1]]])
    ids = torch.tensor([row])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=before).logits[0]
    allowed = [tokens.eos, *range(tokens.first_attribute, tokens.first_attribute + len(ATTRIBUTES))]
    steps = torch.log_softmax(logits[:, allowed], dim=1)
    return -sum(float(steps[at, allowed.index(token)]) for at, token in enumerate(code))


def test_the_checkpoint_is_what_training_begins_with(checkpoint: Path) -> None:
    """Every pretrained weight is there as it was, but for the rows that were added."""
    begun = Pretrained.open(checkpoint)
    model = begun.model(ATTRIBUTES, begun.tokens(LIMITS), SETTINGS)
    own = model if begun.writes else model.encoder.reader
    expected = load_writer(checkpoint) if begun.writes else type(own).from_pretrained(checkpoint)
    found = own.state_dict()
    for name, weight in expected.state_dict().items():
        assert torch.equal(found[name][..., : weight.shape[-1]][: len(weight)], weight), name
    kinds = {is_pretrained(model, name) for name, _ in model.named_parameters()}
    assert kinds == ({True} if begun.writes else {True, False})


def test_what_training_leaves_is_read_back(checkpoint: Path, tmp_path: Path) -> None:
    """The written model is found again without its checkpoint, and says the same."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    train(PRODUCTS, WANTED, dataclasses.replace(CONFIG, training=_settings(copy)), tmp_path / "training")
    shutil.rmtree(copy)
    again = [load_writer(tmp_path / "training" / MODEL).eval() for _ in range(2)]
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        one, other = (model(input_ids=ids, decoder_input_ids=ids[:, :1]).logits for model in again)
    assert torch.equal(one, other) and bool(torch.isfinite(one).all())


def test_an_encoder_begins_with_the_words_of_attributes(tmp_path: Path) -> None:
    """Untrained, the decoder of ours puts that attribute first whose word the text is."""
    begun = Pretrained.open(write_checkpoint(tmp_path / "bert", "bert", TEXTS))
    tokens = begun.tokens(LIMITS)
    model = begun.model(ATTRIBUTES, tokens, SETTINGS).eval()
    with torch.no_grad():
        for at, attribute in enumerate(ATTRIBUTES):
            rows = input_ids(begun.tokenizer, [attribute.value], Role.PRODUCT, tokens)
            start = torch.tensor([[tokens.decoder_start]])
            logits = model(input_ids=torch.tensor(rows), decoder_input_ids=start).logits[0, 0, tokens.first_attribute :]
            assert int(logits.argmax()) == at


def test_first_vectors_of_attributes_have_no_dropout(tmp_path: Path) -> None:
    """Two beginnings with different seeds differ by the noise that is put there on purpose, and by no more."""
    begun = Pretrained.open(write_checkpoint(tmp_path / "bert", "bert", TEXTS))
    tokens = begun.tokens(LIMITS)
    models = [begun.model(ATTRIBUTES, tokens, dataclasses.replace(SETTINGS, seed=seed)) for seed in (1, 2)]
    one, other = (model.shared.weight.detach()[tokens.first_attribute :] for model in models)
    assert float((one - other).abs().max()) < 8 * NOISE < 0.1 * float(one.norm(dim=1).max())


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    """Under other names, as some libraries write them, all would be random numbers."""
    folder = write_checkpoint(tmp_path / "bert", "bert", TEXTS)
    weights = load_file(folder / "model.safetensors")
    save_file({f"0.auto_model.{name}": weight for name, weight in weights.items()}, folder / "model.safetensors")
    begun = Pretrained.open(folder)
    with pytest.raises(TrainingError, match=r"lacks \d+ weights, embeddings"):
        begun.model(ATTRIBUTES, begun.tokens(LIMITS), SETTINGS)


def test_a_tokenizer_whose_ids_have_gaps_is_refused(tmp_path: Path) -> None:
    """New tokens are numbered by the count of the old ones: a prompt would be a word that texts can spell."""
    folder = write_checkpoint(tmp_path / "bert", "bert", TEXTS)
    written = json.loads((folder / "tokenizer.json").read_text())
    del written["model"]["vocab"]["couch"]
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(TrainingError, match="ids have gaps"):
        Pretrained.open(folder)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    """A configuration alone is no checkpoint."""
    folder = write_checkpoint(tmp_path / "bert", "bert", TEXTS)
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    with pytest.raises(TrainingError, match="bert cannot be read"):
        Pretrained.open(folder)


def test_prompts_are_tokens_that_no_text_can_spell(checkpoint: Path) -> None:
    """A shopper who writes `<product>` writes words."""
    begun = Pretrained.open(checkpoint)
    tokens = begun.tokens(LIMITS)
    prompts = {prompt[-1] for prompt in tokens.prompts.values()}
    assert len(prompts) == 2 and max(prompts) < tokens.first_attribute
    assert not prompts & set(begun.tokenizer.encode("a <product> <query>", add_special_tokens=False).ids)


def test_texts_are_cut_to_what_the_checkpoint_reads(tmp_path: Path) -> None:
    """A BERT of 40 positions is never given more, whatever the texts are."""
    begun = Pretrained.open(write_checkpoint(tmp_path / "bert", "bert", TEXTS))
    tokens = begun.tokens(TokenLimits(32, 96))
    assert (tokens.max_query_tokens, tokens.max_product_tokens) == (33, 40)
    assert len(tokens.framed(list(range(5, 200)), Role.PRODUCT)) == 40


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    """The error says which folder, and what one must hold."""
    with pytest.raises(TrainingError, match=r"nowhere cannot be read") as caught:
        Pretrained.open(tmp_path / "nowhere")
    assert "model.safetensors" in str(caught.value.next_step)


def test_a_model_that_only_goes_on_writing_is_refused(tmp_path: Path) -> None:
    """A causal decoder is neither an encoder nor an encoder-decoder."""
    folder = write_checkpoint(tmp_path / "gpt2", "bert", TEXTS)
    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
    with pytest.raises(TrainingError, match="is of type 'gpt2'"):
        Pretrained.open(folder)


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    """A `pytorch_model.bin` can run code: only safetensors are read."""
    folder = write_checkpoint(tmp_path / "bert", "bert", TEXTS)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    begun = Pretrained.open(folder)
    with pytest.raises(TrainingError, match="has weights that cannot be read"):
        begun.model(ATTRIBUTES, begun.tokens(LIMITS), SETTINGS)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    """What training left and somebody changed is no model."""
    folder = write_checkpoint(tmp_path / "bert", "bert", TEXTS)
    begun = Pretrained.open(folder)
    begun.model(ATTRIBUTES, begun.tokens(LIMITS), SETTINGS).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["d_ff"] += 1
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit its configuration"):
        load_writer(tmp_path / "model")
