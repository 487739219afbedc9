"""The search for the prompts of a log among the rows of a pool."""

import json
import random
import time
import warnings

import pandas as pd
import pytest

from jaxsel.evaluation.replay import make_history
from jaxsel.integrations._log_search import TextSearch, is_whole
from jaxsel.integrations.trainer_logs import on_pool, read_logs

QUESTIONS = [f"What is {i} + {7 * i}?" for i in range(200)]
CHAT = "system\nBe kind.\nuser\n{}\nassistant\n"


def rows_of(logged, prompts):
    """Return the row of every prompt of the log, -1 where it is unmatched, and the texts of the warnings."""
    history = make_history([0] * len(logged), range(len(logged)), [1] * len(logged), 2, num_prompts=len(logged))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = on_pool(history, logged, prompts)
    rows = iter(found.history.prompt_ids.tolist())
    unmatched = set(found.unmatched)
    order = [-1 if name in unmatched else next(rows) for name in logged]
    return order, [str(one.message) for one in caught]


@pytest.mark.parametrize("kept", [0, 50, 150, 199])
def test_prompts_outside_of_the_pool_cost_no_other_prompt_its_row(kept):
    logged = [CHAT.format(text) for text in QUESTIONS]
    order, said = rows_of(logged, QUESTIONS[kept:])
    assert order == [-1] * kept + list(range(200 - kept))
    assert len(said) == (kept > 0)
    assert not kept or said[0].startswith(f"{kept} of 200 prompts of the log, such as 'system\\nBe kind.")


@pytest.mark.usefixtures("unchecked_types")
def test_prompts_may_be_columns_of_pandas():
    logged, prompts = (pd.Series(QUESTIONS[:3], index=order) for order in ([5, 7, 9], [2, 0, 1]))
    assert rows_of(logged, prompts) == ([0, 1, 2], [])
    with pytest.raises(ValueError, match=r"no prompt of the log, such as 'What is 0 \+ 0\?', is in the pool"):
        rows_of(logged, pd.Series(["a", "b"], index=[1, 0]))


def test_every_prompt_may_have_a_system_text_of_its_own():
    logged = [CHAT.replace("kind", f"agent {i}").format(text) for i, text in enumerate(QUESTIONS)]
    assert rows_of(logged, QUESTIONS) == (list(range(200)), [])


def test_integers_that_pandas_wrote_as_floats_are_keys():
    history = make_history(range(3), range(3), [1] * 3, 2, num_prompts=3)
    for logged in (["1.0", "2.0", "3.0"], ["1", "2", "3.0"]):
        found = on_pool(history, logged, ["a", "b", "c"], keys=[3, 1, 2])
        assert found.history.prompt_ids.tolist() == [1, 2, 0]
    exact = on_pool(history, ["1.0", "1", "2"], ["a", "b", "c"], keys=["1", "1.0", "2"])
    assert exact.history.prompt_ids.tolist() == [1, 0, 2]


def part(text):
    return {"type": "text", "text": text}


IMAGE = {"type": "image", "image": b"\xff\x00"}


@pytest.mark.parametrize(
    ("pool", "logged"),
    [
        ([part("{}")], CHAT),
        ([IMAGE, part("{}")], "user\n<|image_pad|>{}\nassistant\n"),
        ([IMAGE, part("{}")], "user\n<|image_pad|>\n{}assistant\n"),
        ([part("First: "), IMAGE, part("{}"), IMAGE, part("Compare.")], "user\nFirst: <i>{}<i>Compare.\nassistant\n"),
        ([part("{}")], '[{{"role": "user", "content": "{}"}}]'),
        ("{}", '[{{"content": [{{"text": "{}", "type": "text"}}], "role": "user"}}]'),
        ([{"type": "image", "image": "a.png"}, part("{}")], '[{{"role": "user", "content": "<image>{}"}}]'),
    ],
)
def test_prompts_of_parts(pool, logged):
    def filled(content, text):
        if isinstance(content, str):
            return content.format(text)
        return [one | {"text": one["text"].format(text)} if "text" in one else one for one in content]

    prompts = [[{"role": "user", "content": filled(pool, text)}] for text in QUESTIONS]
    assert rows_of([logged.format(text) for text in QUESTIONS], prompts) == (list(range(200)), [])


def test_the_same_question_about_two_images_is_unmatched_unless_the_log_names_the_image():
    def prompt(image):
        return [{"role": "user", "content": [{"type": "image", "image": image}, part("What is it?")]}]

    pool = [prompt("a.png"), prompt("b.png"), "Name a prime."]
    logged = [json.dumps(prompt("b.png")), "user\nWhat is it?\nassistant\n", "Name a prime."]
    order, said = rows_of(logged, pool)
    assert order == [1, -1, 2]
    assert said[0].startswith("1 of 3 prompts")


def test_a_log_in_parquet_may_hold_the_bytes_of_images(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    prompts = [[{"role": "user", "content": [part("What is it?") | {"image": bytes([i])}]}] for i in range(3)]
    pq.write_table(pa.table({"step": [1] * 3, "prompt": prompts, "reward": [1.0] * 3}), tmp_path / "log.parquet")
    found = read_logs(tmp_path)
    assert on_pool(found.history, found.prompts, prompts).history.prompt_ids.tolist() == [0, 1, 2]


def conversation(*texts):
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def rendered(messages):
    return "".join(f"{message['role']}\n{message['content']}\n" for message in messages) + "assistant\n"


def test_conversations_need_all_their_texts_in_order():
    pool = [conversation(text, "4", f"Add {i} again.") for i, text in enumerate(QUESTIONS)]
    assert rows_of([rendered(one) for one in pool], pool) == (list(range(200)), [])
    assert rows_of([json.dumps(one) for one in pool], pool) == (list(range(200)), [])
    other = conversation("Add 3 again.", "4", QUESTIONS[3])
    longer = conversation(*(message["content"] for message in pool[4]), "8", "And then?")
    wrong = conversation(QUESTIONS[5], "14", "Add 5 again.")
    logged = [rendered(one) for one in (*pool[:3], other, longer, wrong)]
    assert rows_of(logged, pool)[0] == [0, 1, 2, -1, -1, -1]
    assert rows_of([rendered(one) for one in pool[:3]], [*pool, pool[1]])[0] == [0, -1, 2]  # two rows are the same


def test_a_row_of_one_question_is_not_the_first_turn_of_a_conversation():
    logged = [CHAT.format(text) for text in QUESTIONS[:9]]
    logged.append(CHAT.format(f"{QUESTIONS[10]}\nassistant\n80\nuser\nAre you sure?"))
    assert rows_of(logged, QUESTIONS)[0] == [*range(9), -1]


@pytest.mark.parametrize("longer", ["3 + {}", "{} + 3", "(1) * {}", "{} * (1)", "{}*x", "1{}", "Given {}.5"])
def test_no_part_of_a_term_is_a_prompt(longer):
    assert rows_of(["user: 2 + 2. Think.", f"user: {longer.format('2 + 2')}"], ["2 + 2"])[0] == [0, -1]


@pytest.mark.parametrize("around", ["{}", CHAT])
def test_no_part_of_a_longer_problem_is_a_prompt(around):
    longer = [f"{QUESTIONS[0]} Then add 3.", f"If x = 3, what is y? {QUESTIONS[1]}"]
    logged = [around.format(text) for text in [*longer, *QUESTIONS[2:6]]]
    assert rows_of(logged, QUESTIONS)[0] == [-1, -1, 2, 3, 4, 5]


def test_an_example_in_the_template_is_not_the_prompt():
    example = "Example: A farmer has 3 sheep and buys 4 more of them at noon. How many sheep has he? Answer: 7.\n"
    pool = ["A farmer has 3 sheep and buys 4 more of them at noon. How many sheep has he?", *QUESTIONS[:20]]
    logged = [CHAT.format(example + text) for text in QUESTIONS[:25]]
    assert rows_of(logged, pool)[0] == [*range(1, 21)] + [-1] * 5


def brute_force(texts, text):
    """Return all places of `TextSearch.places` by trying every text at every place."""
    found = []
    for start in range(len(text)):
        ends = [start + len(one) for one in texts if one and text.startswith(one, start)]
        whole = [end for end in ends if is_whole(text, start, end)]
        if whole and text[start] != " ":
            found.append((start, max(whole)))
    return found


def test_the_search_finds_what_brute_force_finds():
    rng = random.Random(0)
    for _ in range(300):
        texts = ["".join(rng.choices("ab1 .+", k=rng.randint(0, 20))).strip() for _ in range(rng.randint(0, 40))]
        text = " ".join(rng.choices(["a", "b.", "1", "ab", "+", *texts], k=12))
        assert sorted(set(TextSearch(texts).places(text))) == brute_force(texts, text)


@pytest.mark.parametrize("own", [False, True])
def test_the_time_of_a_search_grows_with_the_size_alone(own):
    """Four times the prompts take less than 12 times as long; the search for each among all texts would take 16."""

    def seconds(size):
        pool = [f"Here are some numbers: {i}, {i + 1}. Combine them to {i % 7}." for i in range(2 * size)]
        logged = [f"system\nAgent {own and i}.\nuser\n{text}\nassistant\n" for i, text in enumerate(pool[size:])]
        started = time.process_time()
        order, _ = rows_of(logged, pool[: size + size // 2])
        assert order == [*range(size, size + size // 2)] + [-1] * (size - size // 2)
        return time.process_time() - started

    small = min(seconds(250) for _ in range(3))
    assert seconds(1000) < 12 * small
