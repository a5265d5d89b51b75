"""`theworld serve`: an OpenAI client gets the answers of `ask`, and a bad request gets an error that says why."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from openai import BadRequestError, OpenAI

from tests.processes import CONTEXT, theworld
from theworld import TheWorld
from theworld.cli.main import main
from theworld.nano.examples import EXAMPLES, FOLDER, load_example
from theworld.serving import server
from theworld.serving.server import WorldChat
from theworld.utils import imports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "serve.md"
QUESTION = load_example("stack").question
STACK = FOLDER / "stack.png"
STARTS_IN = 120
SETTINGS = ({}, {"num_world_steps": 0}, {"num_world_steps": 2}, {"use_world": False}, {"use_world": True})


@pytest.fixture(scope="module")
def nano() -> TheWorld:
    return TheWorld.from_pretrained("nano")


def serve(log: Path) -> None:
    """`theworld serve` in a process of its own, without options but a free port, whose output goes to `log`."""
    # Shells start background jobs, and so their tests, with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    theworld("serve", "--port", "0")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of its own process; ended by Ctrl-C."""
    log = tmp_path_factory.mktemp("serve") / "log"
    log.touch()
    process = CONTEXT.Process(target=serve, args=(log,))
    process.start()
    assert process.pid is not None
    try:
        deadline = time.monotonic() + STARTS_IN
        while not (
            found := re.search(r"^nano at (http://127\.0\.0\.1:\d+/v1) ", log.read_text(encoding="utf-8"), re.MULTILINE)
        ):
            assert process.is_alive(), log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        yield found[1]
        os.kill(process.pid, signal.SIGINT)
        process.join(timeout=30)
        assert process.exitcode == 130
        assert "Traceback" not in log.read_text(encoding="utf-8")
    finally:
        process.kill()


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="none", max_retries=0)


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def asked(question: str, image: str | None = None) -> list[Any]:
    content: list[Any] = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": image}})
    return [{"role": "user", "content": content}]


def ask(client: OpenAI, question: str = QUESTION, image: str | None = None, **options: Any) -> Any:
    image = data_uri(STACK) if image is None else image
    given = {"model": "nano", "messages": asked(question, image), "temperature": 0, **options}
    return client.chat.completions.create(**given)


def world(settings: dict[str, Any]) -> dict[str, Any]:
    return {"extra_body": {"chat_template_kwargs": settings}}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_answers_are_those_of_ask(client: OpenAI, nano: TheWorld, settings: dict[str, Any]) -> None:
    for name in EXAMPLES:
        example = load_example(name)
        expected = nano.ask(FOLDER / f"{name}.png", example.question, **settings)
        blocking = ask(client, example.question, data_uri(FOLDER / f"{name}.png"), **world(settings))
        assert blocking.choices[0].message.content.strip() == expected
        assert blocking.choices[0].finish_reason == "stop"
        *parts, last = ask(client, example.question, data_uri(FOLDER / f"{name}.png"), stream=True, **world(settings))
        assert "".join(part.choices[0].delta.content or "" for part in parts).strip() == expected
        assert last.choices[0].finish_reason == "stop"


def test_the_world_is_in_the_prompt_and_not_in_the_answer(client: OpenAI, nano: TheWorld) -> None:
    plain = ask(client, **world({"use_world": False})).usage.prompt_tokens
    for steps in (0, 1, 2):
        answer = ask(client, **world({"num_world_steps": steps}))
        assert answer.usage.prompt_tokens == plain + nano.config.world_tokens(steps) + 2
        assert "<unused" not in answer.choices[0].message.content


def test_prompts_are_those_of_ask_and_their_world_is_consumed(nano: TheWorld) -> None:
    chat = WorldChat(nano, "nano")
    for steps in (None, 0, 2):
        body = {"messages": asked(QUESTION, data_uri(STACK)), "chat_template_kwargs": {"num_world_steps": steps}}
        inputs, _ = chat.prepare(body)
        expected = nano.question_inputs(STACK, QUESTION, num_world_steps=steps)
        assert inputs.keys() - {"use_world"} == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
        with torch.no_grad():
            consumed = nano(**inputs).num_world_tokens
        assert consumed == nano.config.world_tokens(nano.config.num_world_steps if steps is None else steps)
    assert chat.processor.tokenizer.padding_side == "left"


def test_an_offloaded_model_gets_the_same_prompt(nano: TheWorld, tmp_path: Path) -> None:
    offloaded = TheWorld.from_pretrained("nano", device_map={"": "disk"}, offload_folder=str(tmp_path))
    body = {"messages": asked(QUESTION, data_uri(STACK))}
    inputs, _ = WorldChat(offloaded, "nano").prepare(body)
    expected, _ = WorldChat(nano, "nano").prepare(body)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected.keys() - {"use_world"})


def test_the_world_decides_answers(client: OpenAI) -> None:
    """Otherwise equal answers would prove nothing."""

    def answers(settings: dict[str, Any]) -> list[str]:
        return [
            ask(client, load_example(name).question, data_uri(FOLDER / f"{name}.png"), **world(settings))
            .choices[0]
            .message.content
            for name in EXAMPLES
        ]

    assert answers({"num_world_steps": 2}) != answers({"use_world": False})


def test_conversations_and_questions_without_an_image(client: OpenAI) -> None:
    turns = asked("What colour is the ball?", data_uri(FOLDER / "drop.png"))
    turns += [{"role": "assistant", "content": "red"}, {"role": "user", "content": QUESTION}]
    assert client.chat.completions.create(model="nano", messages=turns, temperature=0).choices[0].message.content
    system: list[Any] = [{"role": "system", "content": "Be brief."}, *asked("How many blocks are there?")]
    assert client.chat.completions.create(model="nano", messages=system).choices[0].message.content


def test_requests_at_the_same_time_do_not_disturb_each_other(client: OpenAI) -> None:
    alone = [ask(client, **world(settings)).choices[0].message.content for settings in SETTINGS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda settings: ask(client, **world(settings)), SETTINGS * 4))
    assert [answer.choices[0].message.content for answer in together] == alone * 4


def test_the_length_of_an_answer_and_where_it_stops(client: OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    short = ask(client, max_tokens=1)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 1)
    assert ask(client, stop=[whole[:1]]).choices[0].message.content.startswith(whole[:1])
    drawn = ask(client, temperature=2, seed=1).choices[0].message.content
    assert ask(client, temperature=2, seed=1).choices[0].message.content == drawn


def test_one_model_is_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]


BAD = {
    "no image": ({"image": "data:image/png;base64,AAAA"}, "not an image that PIL can read"),
    "a damaged image": ({"image": data_uri(STACK)[:200]}, "the image is damaged"),
    "a path": ({"image": str(STACK)}, "expected a data: URI or a public"),
    "a file URL": ({"image": STACK.as_uri()}, "expected a data: URI or a public"),
    "a private URL": ({"image": "http://127.0.0.1/a.png"}, "only public addresses are allowed"),
    "a long prompt": ({"question": "ball " * 5000}, "tokens long and the model reads at most 2048"),
    "no question": ({"question": " "}, "the question is empty"),
    "a marker": ({"question": "What is <unused2>?"}, "reserved for images and worlds"),
    "another model": ({"model": "google/gemma-3-4b-it"}, "pinned to 'nano'; requested 'google/gemma-3-4b-it'"),
    "many steps": (world({"num_world_steps": 4}), "num_world_steps=4: expected 0 to max_world_steps=3"),
    "negative steps": (world({"num_world_steps": -1}), "num_world_steps=-1"),
    "many steps without an image": ({"messages": asked("a"), **world({"num_world_steps": 4})}, "num_world_steps=4"),
    "a world without an image": (
        {"messages": asked("a"), **world({"use_world": True})},
        "the conversation has no image",
    ),
    "steps as text": (world({"num_world_steps": "1"}), "num_world_steps='1'"),
    "a template": (world({"chat_template": "{{ 1 }}"}), "chat_template_kwargs: expected an object with"),
    "a generation config": ({"extra_body": {"generation_config": "{}"}}, "generation_config is not supported"),
    "two answers": ({"n": 2}, "n is not supported"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
    "no tokens": ({"max_tokens": 0}, "max_tokens=0"),
    "heat": ({"temperature": 3}, "temperature=3"),
    "almost no heat": ({"temperature": 1e-320}, "temperature=1e-320"),
    "long stops": ({"stop": "a" * 65}, "stop: expected"),
    "no messages": ({"messages": []}, "messages: expected"),
    "no content": ({"messages": [{"role": "user"}]}, r"messages\[0\]: expected"),
    "audio": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "'input_audio'"),
    "two users": ({"messages": asked("a") + asked("b")}, "must alternate"),
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_told_why(client: OpenAI, stream: bool) -> None:
    for name, (options, message) in BAD.items():
        with pytest.raises(BadRequestError) as caught:
            ask(client, stream=stream, **options)
        body: Any = caught.value.body
        assert re.search(message, body["message"]), (name, body)
        assert "\n" not in body["message"], name
        assert body["type"] == "invalid_request_error", name
    assert ask(client).choices[0].message.content, "the server lives"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", b"{", 422),
        ("/chat/completions", b"[]", 422),
        ("/chat/completions", b'{"messages": "\xff"}', 400),
        ("/chat/completions", b"[" * 100_000, 400),
        ("/chat/completions", b'{"messages": [], "surprise": 1}', 422),
        ("/responses", b"{}", 404),
        ("/completions", b"{}", 404),
        ("/../load_model", b'{"model": "somebody/else"}', 404),
        ("/../reset", b"{}", 404),
        ("/../docs", None, 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_chat_is_refused(url: str, path: str, body: bytes | None, status: int) -> None:
    request = Request(url + path, data=body, headers={"Content-Type": "application/json"})
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=60)
    assert caught.value.code == status
    with caught.value as answer:
        assert json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": asked("What is \ud800?")},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:\udfff"}}]}]},
        {"stop": "\ud800"},
        {"model": "\ud800"},
        {"chat_template_kwargs": {"\ud800": 1}},
        {"n": "\ud800"},
        {"user": "\ud800"},
    ],
    ids=ascii,
)
def test_half_a_surrogate_pair_is_refused(url: str, fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "nano", "messages": asked("a"), **fields}).encode()
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"}), timeout=60)
    assert caught.value.code == 400
    with caught.value as answer:
        message = json.loads(answer.read())["error"]["message"]
    assert re.fullmatch(r"not Unicode text: .*\\ud[8f].*", message)


def test_a_body_that_is_too_large_is_refused_by_its_header(url: str) -> None:
    with closing(HTTPConnection(url.split("/")[2], timeout=60)) as connection:
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(2**26 + 1))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413


def test_the_page_shows_what_works(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8").replace("http://127.0.0.1:8000/v1", url)
    python = re.findall(r"^```python no-run\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(python) == 3
    for code in python:
        if "inspect_ai" in code and find_spec("inspect_ai") is None:
            continue
        exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    assert capfd.readouterr().out.strip()
    shell = next(code for code in re.findall(r"^```bash no-run\n(.*?)^```", text, re.M | re.S) if "curl" in code)
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"], done.stdout + done.stderr


def test_a_port_in_use_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = url.split(":")[2].partition("/")[0]
    assert main(["serve", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port}: the port is in use" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "99999"], "port=99999: expected 0 to 65535; 0 takes any free port"),
        (["--port", "-1"], "port=-1: expected 0 to 65535; 0 takes any free port"),
        (["--device", "tpu"], "device='tpu': this machine has cpu"),
        (["--device", "meta"], "device='meta': this machine has cpu"),
        (["--device", "cuda:99"], "device='cuda:99': this machine has cpu"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"theworld: error: {line}")
    assert error.count("\n") == 1


def test_options_reach_the_model_and_an_open_address_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[tuple[TheWorld, str]] = []
    monkeypatch.setattr(server, "serve", lambda model, name, listening: served.append((model, name)))
    options = "--num_world_steps 1 --dtype bfloat16 --device cpu --attn_implementation eager --host 0.0.0.0 --port 0"
    assert main(["serve", *options.split()]) == 0
    [(model, name)] = served
    assert (name, model.config.num_world_steps, model.dtype) == ("nano", 1, torch.bfloat16)
    assert model.config._attn_implementation == "eager"
    assert capsys.readouterr().err == "warning: 0.0.0.0 is open to other machines: anyone there can use the model\n"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(imports.importlib, "import_module", missing)
    assert main(["serve"]) == 2
    assert 'pip install "theworld[serve]"' in capsys.readouterr().err
