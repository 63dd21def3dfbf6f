"""TextEncoder: its numbers against a loop written from the formula, and what people do with a transformer."""

import json
import math
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import TextEncoder, TextIds
from pymoe.pipeline.text import clean, tokenize

TEXTS = [
    "The weather is fine today, the sky is blue.",
    "今天天气很好，我们去公园玩。",
    "A film without a plot: boring, boring, boring!!",
    "这部电影没有情节，很无聊。",
    "Don't miss it — 5 stars, 天气很好 😀",
    "fine film, fine plot",
    "",
]
NEW = ["today the film is boring", "电影很好 unknownword", "龘", "", "Fine!!"]


# The formula, n-gram by n-gram, in float64; shares no more with the code than ``clean`` and ``tokenize``.
def words_of(text, lo, hi):
    tokens = tokenize(clean(text).lower(), punctuation=True)
    return [" ".join(tokens[i : i + n]) for n in range(lo, hi + 1) for i in range(len(tokens) - n + 1)]


def characters_of(text, lo, hi):
    found = []
    for token in tokenize(clean(text).lower(), punctuation=True):
        padded = f" {token} "
        for n in range(lo, hi + 1):
            found += [padded[i : i + n] for i in range(len(padded) - n + 1)] or [padded]
            if len(padded) <= n:
                break  # the whole word, once
    return found


def loop(fit, texts, grams_of, min_count, sublinear=True):
    df = Counter(g for text in fit for g in set(grams_of(text)))
    terms = sorted(g for g, n in df.items() if n >= min_count)
    rows = []
    for text in texts:
        count = Counter(grams_of(text))
        row = []
        for term in terms:
            tf = count[term]
            if tf and sublinear:
                tf = 1 + math.log(tf)
            row.append(tf * (1 + math.log((1 + len(fit)) / (1 + df[term]))))
        norm = math.sqrt(sum(v * v for v in row))
        rows.append([v / norm if norm else 0.0 for v in row])
    return np.array(rows), terms


def union(fit, texts, min_count, sublinear=True):
    w, _ = loop(fit, texts, lambda t: words_of(t, 1, 2), min_count, sublinear)
    c, _ = loop(fit, texts, lambda t: characters_of(t, 2, 5), min_count, sublinear)
    return np.concatenate([w, c], axis=1)


@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("sublinear", [True, False])
def test_tfidf_is_the_formula(min_count, sublinear):
    encoder = TextEncoder(min_count=min_count, sublinear=sublinear).fit(TEXTS)
    for texts in (TEXTS, NEW):
        x, want = encoder.transform(texts).toarray(), union(TEXTS, texts, min_count, sublinear)
        assert x.dtype == np.float32 and x.shape == want.shape
        tolerance = 64 * np.finfo(np.float32).eps * want.max()
        assert np.abs(x - want).max() <= tolerance
        assert np.abs(x * 1.001 - want).max() > tolerance  # the control: 0.1 % would be seen
    _, terms = loop(TEXTS, TEXTS, lambda t: words_of(t, 1, 2), min_count)
    _, characters = loop(TEXTS, TEXTS, lambda t: characters_of(t, 2, 5), min_count)
    names = [f"word__{t}" for t in terms] + [f"char__{t}" for t in characters]
    assert encoder.get_feature_names_out().tolist() == names


def test_counts_and_presence_are_whole_numbers():
    counted = TextEncoder(codes="counts", min_count=1).fit(TEXTS)
    x, names = counted.transform(TEXTS).toarray(), counted.get_feature_names_out().tolist()
    for i, text in enumerate(TEXTS):
        want = Counter(f"word__{g}" for g in words_of(text, 1, 2))
        want += Counter(f"char__{g}" for g in characters_of(text, 2, 5))
        assert {n: int(v) for n, v in zip(names, x[i], strict=True) if v} == want
    there = TextEncoder(codes="binary", min_count=1).fit_transform(TEXTS).toarray()
    np.testing.assert_array_equal(there, x > 0)


def test_hashing_keeps_counts_and_stores_nothing():
    encoder = TextEncoder(codes="hashing", max_features=2**16, sublinear=False)
    x = encoder.fit_transform(TEXTS)
    assert x.shape == (7, 2**16) and encoder.get_feature_names_out()[-1] == "hash65535"
    counted = TextEncoder(codes="counts", min_count=1).fit_transform(TEXTS)
    for half in (slice(0, 2**15), slice(2**15, None)):
        np.testing.assert_allclose(scipy.sparse.linalg.norm(x[:, half], axis=1), [1] * 6 + [0], rtol=1e-6)
    # without collisions the angles between texts are those of the counts
    names = TextEncoder(codes="counts", min_count=1).fit(TEXTS).get_feature_names_out()
    c = counted[:, [name.startswith("word__") for name in names]].toarray()
    c /= np.maximum(np.linalg.norm(c, axis=1, keepdims=True), 1)
    np.testing.assert_allclose((x[:, : 2**15] @ x[:, : 2**15].T).toarray(), c @ c.T, atol=1e-6)
    assert encoder.state()[1] == {}
    assert TextEncoder(codes="hashing", max_features=101, char_ngrams=None).fit_transform(TEXTS).shape == (7, 101)
    assert TextEncoder(codes="hashing", max_features=101).fit_transform(TEXTS).shape == (7, 101)


KINDS = [
    {"min_count": 1},
    {"char_ngrams": None, "tokens": "words", "stop_words": ["en", "zh"], "min_count": 1},
    {"tokens": "chinese", "stop_words": {"的", "is"}, "codes": "counts"},
    {"tokens": "characters", "char_ngrams": None, "ngrams": (1, 3)},
    {"tokens": "bytes", "char_ngrams": None, "ngrams": [2, 4], "clean": False},
    {"tokens": "bpe", "char_ngrams": None, "bpe_size": 280},
    {"codes": "hashing", "max_features": np.int64(1000)},
    {"codes": "binary", "max_features": 20, "clean": {"urls": False, "unicode": None}, "lowercase": False},
    {"char_ngrams": None, "min_count": 3, "ngrams": (1, 1), "punctuation": False},
]


@pytest.mark.parametrize("settings", KINDS, ids=",".join)
def test_every_kind_comes_back_bit_by_bit(settings):
    encoder = TextEncoder(**settings)
    x = encoder.fit_transform(TEXTS)
    assert scipy.sparse.isspmatrix_csr(x) and x.dtype == np.float32 and x.nnz and x.has_sorted_indices
    meta, arrays = encoder.state()
    meta = json.loads(json.dumps(meta))
    assert all(isinstance(a, np.ndarray) for a in arrays.values())
    for a in arrays.values():
        a.flags.writeable = False
    others = [encoder, clone(encoder).fit(TEXTS), pickle.loads(pickle.dumps(encoder))]
    others.append(TextEncoder.from_state(meta, arrays))
    for other in others:
        same(other.transform(TEXTS), x)
        same(other.transform(NEW), encoder.transform(NEW))
        assert other.get_feature_names_out().tolist() == encoder.get_feature_names_out().tolist()
        assert len(other.get_feature_names_out()) == x.shape[1]
    again = TextEncoder.from_state(meta, arrays).state()
    assert again[0] == meta and all(np.array_equal(again[1][k], arrays[k]) for k in arrays)


def same(a, b):
    assert a.shape == b.shape
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


def test_the_order_of_the_texts_changes_the_rows_only():
    order = np.random.default_rng(0).permutation(len(TEXTS))
    one, two = TextEncoder(min_count=1), TextEncoder(min_count=1)
    x, y = one.fit_transform(TEXTS), two.fit_transform([TEXTS[i] for i in order])
    assert one.get_feature_names_out().tolist() == two.get_feature_names_out().tolist()
    np.testing.assert_allclose(x[order].toarray(), y.toarray(), rtol=1e-6)


def test_the_most_frequent_are_kept_half_of_each_kind():
    texts = ["b a a", "b c a", "b d"]
    found = TextEncoder(ngrams=(1, 1), min_count=1, max_features=4, char_ngrams=(1, 1)).fit(texts)
    assert found.get_feature_names_out().tolist() == [
        "word__a",
        "word__b",
        "char__ ",
        "char__a",
    ]  # of equals a
    found = TextEncoder(ngrams=(1, 1), char_ngrams=None, min_count=1, max_features=3).fit(texts)
    assert found.get_feature_names_out().tolist() == ["a", "b", "c"]
    found = TextEncoder(ngrams=(1, 1), min_count=1, max_features=8, char_ngrams=(2, 3)).fit(["aa", "bb"])
    assert sum(n.startswith("word__") for n in found.get_feature_names_out()) == 2  # and six of characters


def test_stop_words_and_cleaning_come_before_counting():
    encoder = TextEncoder(stop_words="en", char_ngrams=None, min_count=1, punctuation=False)
    encoder.fit(["<b>The</b> Weather is NICE, https://x.org/the_weather"])
    assert encoder.get_feature_names_out().tolist() == ["nice", "weather", "weather nice"]
    raw = TextEncoder(clean=False, lowercase=False, char_ngrams=None, min_count=1, punctuation=False)
    assert raw.fit(["<b>Fine</b>"]).get_feature_names_out().tolist() == ["Fine", "Fine b", "b", "b Fine"]


class Column:
    """What a column of a table offers: an axis, iteration in order, labels that are no positions."""

    ndim, shape = 1, (7,)

    def __iter__(self):
        return iter(TEXTS)

    def __getitem__(self, i):
        raise KeyError(i)


COLUMNS = [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), Column(), iter(TEXTS)]


@pytest.mark.parametrize("texts", COLUMNS, ids=lambda t: type(t).__name__)
def test_any_column_of_texts_will_do(texts):
    same(TextEncoder().fit_transform(texts), TextEncoder().fit_transform(TEXTS))


BAD = [
    ("one text", r"got one str: write \[text\]"),
    (b"one text", r"got one bytes: write \[text.decode\('utf-8'\)\]"),
    (["a", None], "text 1 is missing.*drop the row"),
    (["a", float("nan")], "text 1 is missing"),
    (["a", 5], r"text 1 is no str but int \(5\): is this the column"),
    ([b"a"], "text 0 is bytes: decode"),
    ([["a"]], "text 0 is no str but list"),
    (np.array([["a", "b"]]), r"2 axes, shape \(1, 2\): choose the column"),
    (scipy.sparse.eye(3).tocsr(), r"2 axes, shape \(3, 3\)"),
    (np.ones(3), "text 0 is no str but float"),
    ({"a": 1}, "got dict: give a list"),
    (7, "got int: give a list"),
    (None, "got NoneType"),
    ([], "no texts: give at least one"),
    (np.array([], dtype=str), "no texts"),
]


@pytest.mark.parametrize(("texts", "said"), BAD, ids=repr)
def test_bad_texts_are_told_what_to_do(texts, said):
    fitted, ids = TextEncoder().fit(TEXTS), TextIds().fit(TEXTS)
    for call in (TextEncoder().fit, TextEncoder().fit_transform, fitted.transform, ids.fit, ids.transform):
        with pytest.raises(DataError, match=said):
            call(texts)


SETTINGS = [
    ({"codes": "tf-idf"}, "codes must be one of tfidf, counts, binary, hashing, got 'tf-idf'"),
    ({"tokens": "word"}, "tokens must be one of auto, .*bpe, got 'word'"),
    ({"ngrams": 2}, r"ngrams must be two lengths such as \(1, 2\), got 2"),
    ({"ngrams": (2, 1)}, r"write \(1, 2\)"),
    ({"char_ngrams": (0, 1)}, "char_ngrams must be an integer of at least 1, got 0"),
    ({"tokens": "bytes"}, "give char_ngrams=None"),
    ({"min_count": 0.5}, "min_count must be an integer"),
    ({"max_features": 1}, "max_features must be an integer of at least 2"),
    ({"clean": "yes"}, "clean must be True, False or switches"),
    ({"clean": {"html": True}}, "clean has no switch 'html'; it has mojibake, "),
    ({"stop_words": "english"}, "no stop words for 'english'"),
]


@pytest.mark.parametrize(("settings", "said"), SETTINGS, ids=repr)
def test_bad_settings_are_told_what_to_do(settings, said):
    with pytest.raises(ConfigError, match=said):
        TextEncoder(**settings).fit(TEXTS)


def test_nothing_left_is_an_error_in_fit_and_a_row_of_zeros_after():
    with pytest.raises(DataError, match="none of the 3 texts has a token left after cleaning"):
        TextEncoder().fit(["", "<br>", " \0 "])
    with pytest.raises(DataError, match="no n-gram stands in 2 of the 2 texts: lower min_count"):
        TextEncoder(char_ngrams=None).fit(["one", "two"])
    assert TextEncoder().fit(TEXTS).transform(["", "<br>"]).nnz == 0
    for coder in (TextEncoder(), TextIds()):
        with pytest.raises(NotFittedError, match="not fitted"):
            coder.transform(TEXTS)
    for call in (TextEncoder().state, TextEncoder().get_feature_names_out, TextIds().state):
        with pytest.raises(NotFittedError):
            call()


with warnings.catch_warnings():  # scikit-learn skips, by the tags, the checks that feed numbers, and warns of it
    warnings.simplefilter("ignore", SkipTestWarning)

    @parametrize_with_checks([TextEncoder(), TextIds()])
    def test_scikit_learns_checks(estimator, check):
        check(estimator)


def test_it_is_the_tags_that_skip_the_checks_for_numbers():
    tags = get_tags(TextEncoder())
    assert tags.input_tags.string and not tags.input_tags.two_d_array and tags.requires_fit
    with pytest.warns(SkipTestWarning, match="Can't test estimator TextEncoder which requires input"):
        assert len(list(estimator_checks_generator(TextEncoder()))) >= 1


POSITIVE = ["good film", "very good", "很好 的 电影", "what a good day", "天气很好", "so good!"]
NEGATIVE = ["bad film", "very bad", "无聊 的 电影", "what a bad day", "天气很差", "so bad!"]


def test_it_works_where_transformers_work():
    x, y = np.array(POSITIVE + NEGATIVE, dtype=object), [1] * 6 + [0] * 6
    model = make_pipeline(TextEncoder(min_count=1), LogisticRegression())
    assert model.fit(x, y).predict(["a good one", "a bad one"]).tolist() == [1, 0]
    assert len(cross_val_score(model, x, y, cv=3)) == 3
    grid = GridSearchCV(
        Pipeline([("text", TextEncoder(min_count=1)), ("model", LogisticRegression())]),
        {"text__char_ngrams": [None, (2, 3)], "text__codes": ["tfidf", "hashing"], "text__max_features": [512]},
        cv=2,
    )
    assert grid.fit(list(x), y).best_score_ > 0.5
    assert clone(model).get_params()["textencoder__min_count"] == 1
    with pytest.raises(ValueError, match="sparse"):
        TextEncoder(min_count=1).set_output(transform="pandas").fit_transform(x)
    same(TextEncoder().set_output(transform="default").fit_transform(TEXTS), TextEncoder().fit_transform(TEXTS))


def test_texts_and_settings_are_left_alone():
    texts, stop, switches = list(TEXTS), ["en"], {"urls": False}
    encoder = TextEncoder(stop_words=stop, clean=switches).fit(texts)
    x = encoder.transform(texts)
    kept = x.copy()
    x.data *= 2
    same(encoder.transform(texts), kept)
    assert texts == TEXTS and stop == ["en"] and switches == {"urls": False}


@pytest.mark.parametrize("settings", [{}, {"codes": "hashing", "max_features": 1000}], ids=repr)
def test_rows_one_at_a_time_are_the_rows_together(settings):
    encoder = TextEncoder(**settings).fit(TEXTS)
    one_by_one = scipy.sparse.vstack([encoder.transform([text]) for text in NEW], format="csr")
    same(one_by_one, encoder.transform(NEW))


def test_a_text_of_a_megabyte_is_a_row_like_any_other():
    encoder = TextEncoder(min_count=1).fit(["x" * 10**6, "天" * 3000, "short"])
    assert encoder.transform(["short " * 160_000]).nnz > 0
