"""The forms that data comes in: each gives the same conversation, whatever the file; faults are bad lines."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import pytest

from snake_dist.data.forms import BadLine, form_of, parse_columns
from snake_dist.data.game_keys import game_keys
from snake_dist.data.records import read_records
from snake_dist.data.sources import resolve_paths
from snake_dist.data.tables import hub_files
from snake_dist.errors import InputError

HELLO = {"role": "user", "content": "hello"}
HI = {"role": "assistant", "content": "hi"}
TURNS = [HELLO, HI, {"role": "user", "content": "and now?"}, {"role": "assistant", "content": "bye"}]
SHARED = [{"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in TURNS]
ONE, TWO = (("hello", "hi"),), (("hello", "hi"), ("and now?", "bye"))

FORMS = {
    "pairs with other columns": ({"prompt": "hello", "completion": "hi", "score": 1.5, "meta": {}}, "", ONE),
    "pairs of messages": ({"prompt": [{"role": "system", "content": "s"}, HELLO], "completion": [HI]}, "s", ONE),
    "messages": ({"messages": TURNS, "prompt": "hello", "prompt_id": "7"}, "", TWO),
    "messages with system": ({"messages": [{"role": "system", "content": "s"}, *TURNS]}, "s", TWO),
    "conversations": ({"id": "x_0", "conversations": SHARED}, "", TWO),
    "conversations with system": ({"system": "s", "conversations": SHARED}, "s", TWO),
    "conversations of messages": ({"conversations": TURNS}, "", TWO),
    "instruction": ({"instruction": "hello", "output": "hi"}, "", ONE),
    "instruction and input": ({"instruction": "add", "input": "1 2", "output": "3"}, "", (("add\n\n1 2", "3"),)),
    "instruction, empty input": ({"instruction": "hello", "input": "", "output": "hi", "text": "..."}, "", ONE),
    "instruction with history": (
        {"instruction": "and now?", "input": None, "output": "bye", "history": [["hello", "hi"]], "system": "s"},
        "s",
        TWO,
    ),
}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read_as_turns(tmp_path, name):
    line, system, turns = FORMS[name]
    (record,) = read_records([write(tmp_path / "a.jsonl", line)])
    assert (record.system, record.turns) == (system, turns)
    assert (record.prompt, record.completion) == turns[0]


BAD = {
    "no form": ({"text": "x"}, "no key 'prompt'; the forms are prompt/completion, messages, conversations, instr"),
    "half a form": ({"prompt": "p"}, "no key 'completion'; the forms"),
    "half an instruction": ({"instruction": "p"}, "no key 'output'; the forms"),
    "open": ({"messages": TURNS[:3]}, "messages: ends with the user's turn: user, assistant, user"),
    "begins with the assistant": (
        {"conversations": SHARED[1:]},
        "conversations: user and assistant do not take turns: assistant, user, assistant",
    ),
    "empty": ({"messages": []}, "messages: user and assistant do not take turns"),
    "a tool": (
        {"messages": [HELLO, {"role": "tool", "content": "x"}, HI]},
        "messages: an unknown role: 'tool', the 2. message; known: user, human, assistant",
    ),
    "no text": ({"messages": [HELLO, {"role": "assistant"}]}, "messages: a message without 'content', the 2. one"),
    "a call": (
        {"messages": [HELLO, {"role": "assistant", "content": None}]},
        "messages: a message's content is not a string but NoneType",
    ),
    "blank": ({"conversations": [SHARED[0], {"from": "gpt", "value": " "}]}, "conversations: a message's value"),
    "text": ({"messages": "hello"}, "messages: not a list of messages"),
    "pairs of several turns": (
        {"prompt": TURNS[:3], "completion": TURNS[3:]},
        "prompt and completion of several turns: write them as messages",
    ),
    "half of a pair": ({"prompt": [HELLO], "completion": "hi"}, "prompt is not a string but list"),
    "history": ({"instruction": "a", "output": "b", "history": ["c"]}, "history is not a list of pairs"),
    "blank instruction": ({"instruction": " ", "input": "", "output": "b"}, "empty instruction"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_named_with_its_place_and_counted(tmp_path, name):
    line, why = BAD[name]
    path = write(tmp_path / "a.jsonl", line, {"prompt": "p", "completion": "c"})
    with pytest.raises(InputError) as refused:
        list(read_records([path]))
    assert str(refused.value).startswith(f"{path}:1: ")
    assert why in str(refused.value)
    # Good lines that follow are of another form where the bad one has said which form the file has.
    skipped: Counter[str] = Counter()
    with suppress(InputError):
        assert list(read_records([path], "skip", skipped))
    assert skipped.total() == (1 if "form" in name or "pair" in name or name == "half an instruction" else 2)


def test_a_mixture_of_forms_in_one_file_is_a_bad_line_but_files_may_differ(tmp_path):
    pair, chat = {"prompt": "p", "completion": "c"}, {"messages": TURNS}
    mixed = write(tmp_path / "mixed.jsonl", pair, pair | chat, chat, pair)
    with pytest.raises(InputError, match=r"mixed\.jsonl:3: a mixture of forms in one file: messages, where lines befo"):
        list(read_records([mixed]))
    skipped: Counter[str] = Counter()
    assert [record.line for record in read_records([mixed], "skip", skipped)] == [1, 2, 4]
    assert skipped == {"a mixture of forms in one file": 1}
    both = [write(tmp_path / "a.jsonl", pair), write(tmp_path / "b.jsonl", chat)]
    assert [record.form for record in read_records(both)] == ["prompt/completion", "messages"]


def test_columns_name_the_datas_own(tmp_path):
    columns = parse_columns(["prompt=question", "completion=answer"])
    line = {"question": "hello", "answer": "hi", "prompt": "another", "messages": TURNS}
    (record,) = read_records([write(tmp_path / "a.jsonl", line)], columns=columns)
    assert record.turns == ONE
    (record,) = read_records([tmp_path / "a.jsonl"], columns={"messages": "messages"})
    assert record.turns == TWO
    with pytest.raises(BadLine) as bad:
        form_of({"question": "q"}, None, columns)
    assert bad.value.reason + bad.value.detail == (
        "no key 'prompt', nor 'question' of --columns; the forms are prompt/completion, messages, conversations, "
        "instruction/output, or --columns KEY=COLUMN"
    )
    for words in (["question"], ["text=a"], ["prompt="], ["prompt=a", "prompt=b"]):
        with pytest.raises(
            InputError, match=rf"--columns {words[-1]}: KEY=COLUMN is expected, each KEY once, of prompt"
        ):
            parse_columns(words)


def test_a_conversation_is_a_game_of_its_own(tmp_path):
    chats = write(tmp_path / "chats.jsonl", *[{"messages": TURNS}] * 3)
    pairs = write(tmp_path / "pairs.jsonl", *[{"prompt": "p", "completion": "c"}] * 3)
    keys = [key for _, key in game_keys(read_records([chats, pairs]), tmp_path)]
    assert keys == ["chats.jsonl@1", "chats.jsonl@2", "chats.jsonl@3", *["pairs.jsonl@1"] * 3]


def test_parquet_arrow_and_data_sets_give_the_records_of_lines(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lines = [line for line, *_ in (FORMS["conversations with system"],) for _ in range(3)]
    lines = [line | {"id": str(number)} for number, line in enumerate(lines)]
    table = datasets.Dataset.from_list(lines)
    table.to_parquet(str(tmp_path / "shards/a.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved/cache-0123.arrow").write_bytes(next((tmp_path / "saved").glob("data*.arrow")).read_bytes())
    datasets.DatasetDict(train=table, test=table).save_to_disk(str(tmp_path / "splits"))
    wanted = [
        (record.system, record.turns, record.line) for record in read_records([write(tmp_path / "a.jsonl", *lines)])
    ]
    passed_over: list[str] = []
    for source in ("shards", "saved", "splits/train", "shards/*.parquet"):
        read = read_records(resolve_paths([str(tmp_path / source)], passed_over))
        assert [(record.system, record.turns, record.line) for record in read] == wanted
    assert {path.rpartition("/")[2] for path in passed_over} == {"cache-0123.arrow", "dataset_info.json", "state.json"}
    with pytest.raises(InputError, match=r"with splits: name the one to train on: .*splits/test, .*splits/train"):
        resolve_paths([str(tmp_path / "splits")])
    # A directory stands for a hub here: `datasets` loads both in the same way.
    read = read_records(resolve_paths([f"hub:{tmp_path / 'shards'}:train"]))
    assert [(record.system, record.turns, record.line) for record in read] == wanted
    for name, why in (("hub:", "hub:NAME, hub:NAME:SPLIT"), (f"hub:{tmp_path}/none", "--data hub:.*none: .*[Ee]rror")):
        with pytest.raises(InputError, match=why):
            hub_files(name)


def test_a_bad_row_has_its_number_and_a_broken_table_its_name(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list([{"prompt": "p", "completion": text} for text in ("c", " ")]).to_parquet(str(path))
    with pytest.raises(InputError, match=r"a\.parquet:2: empty completion"):
        list(read_records([path]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: no readable table: "):
        list(read_records([path], "skip"))
