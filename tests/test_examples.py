"""Every example runs as a user would run it, in a process of its own, without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
SAYS = {  # a line that only a run to the end prints
    "01_one_layer": "input:",
    "02_check_your_own_op": "the gradient of 'x' is wrong",
    "03_a_routing_rule": "16 of 16 planted faults caught",
    "04_train": "held-out loss",
    "05_read_a_cache": "rebuilt from the cache",
    "06_prune_a_layer": "least error at one half: sparsegpt",
    "07_split_a_dense_layer": "drop-upcycling, a share of each copy's units",
    "08_merge_experts": "one dense layer of all eight",
    "09_choose_a_sparsity": "loses least",
    "10_the_articles_model": "one sub-model in four is enough",
    "11_classify_english_and_chinese": "今天天气很好: positive",
    "12_sentiment_by_domain_experts": "against one model of all",
    "13_translate": "source -> translation of the experts",
    "14_generate": "temperature 1.5:",
    "15_images": "experts - dense:",
    "16_recommend": "its price: a prediction depends on the batch",
    "17_text_and_image": "weight of each expert",
}
PICTURES = {  # what an example that draws leaves in the folder it is given
    "10_the_articles_model": "the_articles_model.png",
    "11_classify_english_and_chinese": "english_and_chinese.png",
    "12_sentiment_by_domain_experts": "sentiment_by_domain.png",
    "13_translate": "translate.png",
    "14_generate": "generate.png",
    "15_images": "images.png",
    "16_recommend": "recommend.png",
    "17_text_and_image": "text_and_image.png",
}


def test_every_example_is_known():
    assert {e.stem for e in EXAMPLES} == set(SAYS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.stem)
def test_example(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYMOE_DATA": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[example.stem] in done.stdout
    if example.stem in PICTURES:
        png = (tmp_path / PICTURES[example.stem]).read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 10_000
