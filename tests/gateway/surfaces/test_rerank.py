"""Documents ranked over HTTP, by a random cross-encoder: the scores are transformers' own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from gateway.http.collected import Ranked
from gateway.surfaces.openai.reranking import RerankApi, parse_rerank, render_ranked, rerank_request
from p2pnet.cli.loading import load_models
from p2pnet.config import ModelConfig
from p2pnet.errors import InvalidRequest, UsageError, WorkerFailed
from p2pnet.messages import Accepted, Finished
from p2pnet.rerank_messages import MAX_DOCUMENTS, Relevance, RerankRequest
from p2pnet.worker.backend import RerankBackend
from p2pnet.worker.backends.reranking import RerankingBackend, batches
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.embedding.cross_encoder import is_cross_encoder, load_cross_encoder
from p2pnet.worker.engine.turns import Turns
from tests.gateway.scripted_ranks import END, Scores
from tests.gateway.scripted_swarm import scripted_swarm

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_TOKENS = 32
QUERY = "which peer"
DOCUMENTS = ["a peer", "no", "the quick brown fox jumps over the lazy dog " * 3, ""]


def build(folder: Path, **config: Any) -> Path:
    """A BERT of random weights that reads letters."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate((*SPECIAL, *LETTERS))}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    around = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    wrapped: Any = PreTrainedTokenizerFast
    wrapped(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=MAX_TOKENS
    ).save_pretrained(folder)
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"vocab_size": 30, "max_position_embeddings": MAX_TOKENS, "num_labels": 1, "initializer_range": 1.0}
    BertForSequenceClassification(BertConfig(**{**shape, **sizes, **config})).eval().save_pretrained(folder)
    return folder


def expected(folder: Path, *, is_sigmoid: bool = True) -> list[float]:
    """What transformers itself gives, one pair at a time."""
    model: Any = BertForSequenceClassification.from_pretrained(folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    found = []
    with torch.inference_mode():
        for document in DOCUMENTS:
            fields = tokenizer([QUERY], [document], truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            (logit,) = model(**fields).logits.flatten().tolist()
            found.append(torch.sigmoid(torch.tensor(logit)).item() if is_sigmoid else logit)
    return found


@asynccontextmanager
async def serving(folder: Path, tokens: int | None = None) -> AsyncGenerator[RerankingBackend, None]:
    torch.set_num_threads(1)
    encoder = load_cross_encoder(folder, "cpu", "float32", HashCache(folder.parent))
    backend = RerankingBackend(encoder, "ranks", Turns(), lambda: 0, tokens)
    yield backend
    await backend.close()


@pytest.mark.parametrize("name", ["Sigmoid", "Identity"])
async def test_scores_are_those_of_transformers_whatever_is_batched(tmp_path: Path, name: str) -> None:
    told = {"sentence_transformers": {"activation_fn": f"torch.nn.modules.activation.{name}"}}
    folder = build(tmp_path / "m", **told)
    assert is_cross_encoder(folder)
    for tokens in (1, 40, None):
        async with serving(folder, tokens) as backend:
            assert backend.models[0].context_length == MAX_TOKENS
            request = RerankRequest("r1", "ranks", QUERY, tuple(DOCUMENTS))
            accepted, *scores, finished = [event async for event in backend.rerank(request)]
            found = {each.index: each.score for each in scores if isinstance(each, Relevance)}
            assert [found[index] for index in range(len(DOCUMENTS))] == pytest.approx(
                expected(folder, is_sigmoid=name == "Sigmoid"), abs=1e-5
            )
            assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
            assert accepted.prompt_tokens == finished.usage.prompt_tokens


def test_what_is_no_cross_encoder_of_one_label_is_none(tmp_path: Path) -> None:
    assert not is_cross_encoder(build(tmp_path / "two", num_labels=2))
    odd = build(tmp_path / "odd", sentence_transformers={"activation_fn": "somebody.Code"})
    with pytest.raises(UsageError):
        load_cross_encoder(odd, "cpu", "float32", HashCache(tmp_path))


def test_batches_are_no_larger_than_they_may_be() -> None:
    assert list(batches([3, 9, 1, 4], 9)) == [[1], [3, 0], [2]]
    assert list(batches([3, 9], 1)) == [[1], [0]]


async def test_documents_are_ranked_over_http_as_cohere_and_jina_have_it(tmp_path: Path) -> None:
    folder = build(tmp_path / "m")
    documents = [DOCUMENTS[0], *({"text": text} for text in DOCUMENTS[1:])]
    body = {"model": "ranks", "query": QUERY, "documents": documents}
    async with (
        serving(folder) as backend,
        scripted_swarm([], embedders=[[backend]]) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        for path, given in (("/v1/rerank", documents), ("/v2/rerank", DOCUMENTS), ("/rerank", documents)):
            asked = {**body, "documents": given, "top_n": 2, "return_documents": True}
            reply = await client.post(path, json=asked)
            assert reply.status_code == 200, reply.text
            answer = reply.json()
            best = sorted(enumerate(expected(folder)), key=lambda each: -each[1])[:2]
            assert [result["index"] for result in answer["results"]] == [index for index, _ in best]
            assert [each["document"]["text"] for each in answer["results"]] == [DOCUMENTS[i] for i, _ in best]
            assert answer["meta"]["tokens"]["input_tokens"] > 0
            assert ("usage" in answer) is (path != "/v2/rerank")
        (listed,) = (await client.get("/v1/models")).json()["data"]
        assert (listed["tasks"], listed["features"]) == (["rerank"], ["rerank"])
        refused = await client.post("/v1/rerank", json={**body, "documents": []})
        assert refused.status_code == 400
        assert refused.json()["message"] == refused.json()["detail"] == refused.json()["error"]["message"]
        vectors = await client.post("/v1/embeddings", json={"model": "ranks", "input": "a"})
        assert (vectors.status_code, vectors.json()["error"]["code"]) == (400, "feature_missing")


async def test_another_worker_begins_anew_where_one_breaks_off() -> None:
    bad = (Accepted(4), Relevance(0, 0.9), WorkerFailed("no"))
    scripts = iter((bad, (Accepted(4), Relevance(1, 0.5), Relevance(0, 0.25), END)))
    workers: list[list[RerankBackend]] = [[Scores(scripts)], [Scores(scripts)]]
    async with scripted_swarm([], [], embedders=workers) as url, httpx.AsyncClient(base_url=url) as client:
        reply = await client.post("/v1/rerank", json={"model": "ranks", "query": "q", "documents": ["a", "b"]})
    found = [(each["index"], each["relevance_score"]) for each in reply.json()["results"]]
    assert found == [(1, 0.5), (0, 0.25)]


TEXTS = [{"text": "b"}, {"text": "a"}]
SCORED = ({"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.25})
BILLED = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 4, "output_tokens": 0}}
JINA = [{**result, "document": document} for result, document in zip(SCORED, TEXTS, strict=True)]
SHAPES: dict[str, tuple[RerankApi, dict[str, Any], list[dict[str, Any]]]] = {
    "Jina's": ("jina", {}, JINA),
    "Jina's, with objects": ("jina", {"documents": [{"text": "a"}, {"text": "b"}], "query": {"text": "q"}}, JINA),
    "Jina's, scores alone": ("jina", {"return_documents": False}, list(SCORED)),
    "Jina's, the best": ("jina", {"top_n": 1}, JINA[:1]),
    "Jina's, more than there are": ("jina", {"top_n": 9}, JINA),
    "Cohere's": ("cohere", {}, list(SCORED)),
    "Cohere's, with documents": ("cohere", {"return_documents": True}, JINA),
}


@pytest.mark.parametrize(("api", "fields", "results"), SHAPES.values(), ids=SHAPES)
def test_answers_have_the_shape_of_their_api(
    api: RerankApi, fields: dict[str, Any], results: list[dict[str, Any]]
) -> None:
    body = parse_rerank(json.dumps({"model": "m", "query": "q", "documents": ["a", "b"], **fields}).encode())
    asked = rerank_request(body, api, "r1")
    assert (asked.query, asked.documents) == ("q", ("a", "b"))
    answer = json.loads(render_ranked(Ranked((0.25, 0.5), END), body, api, "i1", asked))
    assert answer.pop("results") == results
    usage = {"object": "list", "model": "m", "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    version = {"cohere": "2", "jina": "1"}[api]
    rest = {"id": "i1", "meta": {"api_version": {"version": version}, **BILLED}}
    assert answer == (rest if api == "cohere" else {**usage, **rest})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"query": ""}, "query"),
    ({"query": {"text": ""}}, "query"),
    ({"query": {"image": "a"}}, "query"),
    ({"query": None}, "query"),
    ({"documents": []}, "documents"),
    ({"documents": ["a"] * (MAX_DOCUMENTS + 1)}, "documents"),
    ({"documents": [{"title": "a"}]}, "documents"),
    ({"documents": [1]}, "documents"),
    ({"top_n": 0}, "top_n"),
]


@pytest.mark.parametrize("api", ["jina", "cohere"])
@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, api: RerankApi) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body = {"model": "m", "query": "q", "documents": ["a"], **fields}
        rerank_request(parse_rerank(json.dumps(body).encode()), api, "r1")
    assert caught.value.param == param


def test_cohere_takes_no_objects_and_whoever_sends_some_is_told_who_does() -> None:
    body = parse_rerank(b'{"model": "m", "query": "q", "documents": ["a", {"text": "b"}]}')
    with pytest.raises(InvalidRequest, match=r"documents\[1\]: must be a text; /v1/rerank takes objects, too"):
        rerank_request(body, "cohere", "r1")


async def test_a_folder_is_served_for_what_it_is(tmp_path: Path) -> None:
    loaded = await load_models([str(build(tmp_path / "ranks"))], ModelConfig(device="cpu", dtype="float32"), 1)
    (backend,) = loaded.embedders
    assert isinstance(backend, RerankingBackend)
    assert backend.models[0].asked_for == (("ranks", "rerank"),)
    await loaded.close()
