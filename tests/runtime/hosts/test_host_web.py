"""The page in a real browser: it writes what Python writes, can be stopped, and says in a line what is wrong."""

from __future__ import annotations

import http.client
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import hosts
import models
import numpy as np
import pytest
import same_text

from unrolled.cli.verbs import demo
from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export import web
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.web_server import WebServer

TEXT = 'The quick brown fox (a "vixen") jumps: over the lazy dog, isn\'t it?\n\tPack my box, 12 × 😀 — naïve 𝔘!\n'
BUSY = "return document.documentElement.classList.contains('busy')"
ENTER, ESCAPE, HOME, RIGHT = "\ue007", "\ue00c", "\ue011", "\ue014"  # WebDriver's keys
WAIT = 60.0  # seconds, for a slow machine


def checkpoint(level: str) -> Checkpoint:
    """A random model that writes all kinds of tokens, and as a word model <eos> now and then."""
    tokenizer: Tokenizer
    if level == "char":
        tokenizer = CharTokenizer.fit(TEXT)
        config = models.config("lstm", vocab_size=len(tokenizer.vocabulary))
    elif level == "bpe":
        tokenizer = hosts.bpe_tokenizer()
        config = models.config("gru", vocab_size=len(tokenizer.vocabulary))
    elif level == "whitespace":
        tokenizer = WhitespaceTokenizer.fit(TEXT)
        config = models.config("gru", vocab_size=len(tokenizer.vocabulary))
    else:
        tokenizer = WordTokenizer.fit(TEXT, specials=(UNK, BOS, EOS), punctuation=True)
        config = models.config("gru", vocab_size=len(tokenizer.vocabulary))
    training = {
        "corpus": {"name": "fox.txt", "characters": 1234},
        "result": {"epochs": 2.0, "best": {"loss": 1.5, "perplexity": 4.4817}},
    }
    return Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer, training)


# ---------------------------------------------------------------- the folder


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """What an installed onnxruntime-web looks like from the outside."""
    folder = tmp_path / "npm" / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    for name in web.RUNTIME:
        (folder / name).write_text(name)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_its_files_ask_for_and_nothing_names_another_host(tmp_path: Path, runtime: Path) -> None:
    folder = export_model(checkpoint("char"), tmp_path / "page", "web", onnxruntime_web=runtime)
    assert files(folder) == web.FILES
    assert load(folder / "model.onnx").config == checkpoint("char").config
    for path in [folder / name for name in web.FILES if name.endswith((".mjs", ".html", ".css"))]:
        text = path.read_text("utf-8")
        for found in re.findall(r"""(?:from|import|src=|href=|new Worker\()\s*['"](?!#)([^'"]+)['"]""", text):
            assert (path.parent / found).is_file(), f"{path.name} asks for {found}"
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text), path.name


@pytest.mark.parametrize("inside", ["", "..", "../..", "../../.."])
def test_onnxruntime_web_is_found_from_each_of_its_folders(runtime: Path, inside: str) -> None:
    assert web.find_onnxruntime_web(runtime / inside).resolve() == runtime


def test_onnxruntime_web_is_looked_for_here(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runtime.parents[2])
    assert web.find_onnxruntime_web().resolve() == runtime


def test_without_onnxruntime_web_the_error_is_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(web, "hosts_folder", lambda: tmp_path)
    with pytest.raises(MissingDependencyError, match=r"`npm install --prefix \. onnxruntime-web@1`"):
        export_model(checkpoint("char"), tmp_path / "page", "web")
    (runtime / web.RUNTIME[1]).unlink()
    with pytest.raises(MissingDependencyError, match="has no ort"):
        export_model(checkpoint("char"), tmp_path / "page", "web", onnxruntime_web=runtime)
    assert not (tmp_path / "page").exists()


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path, runtime: Path) -> None:
    folder = tmp_path / "page"

    def export() -> None:
        export_model(checkpoint("char"), folder, "web", onnxruntime_web=runtime)

    folder.mkdir()
    export()
    (folder / "model.onnx").unlink()
    (folder / "app.mjs").write_text("an old one")
    export()
    assert files(folder) == web.FILES
    assert (folder / "app.mjs").read_text() != "an old one"
    (folder / "js" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds js/thesis\.txt"):
        export()
    (folder / "js" / "thesis.txt").unlink()
    (folder / "index.html").write_text("<title>My site</title>")
    with pytest.raises(ConfigError, match="no earlier export"):
        export()
    assert (folder / "index.html").read_text() == "<title>My site</title>"
    file = tmp_path / "file"
    file.write_text("data")
    with pytest.raises(ConfigError, match="is a file"):
        export_model(checkpoint("char"), file, "web", onnxruntime_web=runtime)


def test_the_current_folder_is_not_replaced(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="current folder"):
        export_model(checkpoint("char"), Path(), "web", onnxruntime_web=runtime)


@pytest.mark.parametrize("earlier", [False, True])
def test_an_export_that_fails_leaves_what_was_there(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    folder = tmp_path / "out" / "page"
    if earlier:
        export_model(checkpoint("char"), folder, "web", onnxruntime_web=runtime)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("unrolled.export.onnx.writer.write_onnx", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(checkpoint("char"), folder, "web", onnxruntime_web=runtime)
    assert [path.name for path in folder.parent.iterdir()] == ["page"] * earlier
    assert not earlier or files(folder) == web.FILES


def test_settings_belong_to_their_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="onnxruntime_web: is no setting of format onnx; it belongs to web"):
        export_model(checkpoint("char"), tmp_path / "model.onnx", "onnx", onnxruntime_web=tmp_path)


# ---------------------------------------------------------------- the server and the demo


def get(url: str, name: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("GET", f"/{name}")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_the_server_says_what_its_files_are(tmp_path: Path, runtime: Path) -> None:
    with pytest.raises(ModelFileError, match="holds no page"):
        WebServer(tmp_path)
    folder = export_model(checkpoint("char"), tmp_path / "page", "web", onnxruntime_web=runtime)
    with WebServer(folder) as server:
        assert server.url.startswith("http://127.0.0.1:")
        expected = {
            "": "text/html",
            "app.mjs": "text/javascript",
            f"ort/{web.RUNTIME[1]}": "application/wasm",
            "style.css": "text/css",
            "icon.svg": "image/svg+xml",
        }
        for name, kind in expected.items():
            response = get(server.url, name)
            assert (response.status, response.headers.get_content_type()) == (200, kind)
        assert get(server.url, "../npm/node_modules/onnxruntime-web/dist/" + web.RUNTIME[0]).status == 404


def test_demo_web_opens_what_was_trained(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "demo" / "numba" / "best.safetensors", checkpoint("char"))
    opened: list[int] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(get(url, "model.onnx").status)))

    def interrupted(_: WebServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WebServer, "wait", interrupted)
    demo.demo(tmp_path / "demo", web=True, onnxruntime_web=runtime)
    assert opened == [200]
    assert "http://127.0.0.1:" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is for --web"):
        demo.demo(tmp_path / "demo", onnxruntime_web=runtime)


# ---------------------------------------------------------------- the page


class Page:
    """A page in a browser; the console has to stay silent."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, **address: object) -> None:
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(f"{url}#{urlencode(address, quote_via=quote_plus)}" if address else url)

    def go(self, **address: object) -> None:
        """Another prompt and other settings in the page that is open, which then writes."""
        self.js("document.getElementById('status').textContent = ''")  # for ``rest`` to wait for
        self.js("location.hash = arguments[0]", urlencode(address, quote_via=quote_plus))

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def content(self, name: str) -> str:
        """The text of an element, as it stands in the page."""
        return self.js("return document.getElementById(arguments[0]).textContent", name)

    def until(self, what: Callable[[], Any], why: str) -> Any:
        end = time.monotonic() + WAIT
        while not (found := what()):
            assert time.monotonic() < end, f"{why}; {self.content('error')}; {self.driver.get_log('browser')}"
            time.sleep(0.05)
        return found

    def error(self) -> str:
        return self.until(lambda: self.content("error"), "no error is shown")

    def rest(self) -> str:
        """The whole text when the page has written it."""
        script = (
            "return !document.getElementById('error').hidden || (!document.documentElement.classList.contains('busy')"
        )
        script += " && document.getElementById('status').textContent !== '')"
        self.until(lambda: self.js(script), "nothing is written")
        assert self.content("error") == ""
        return self.content("text")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def fill(self, name: str, text: str) -> None:
        """Replace what a field holds in one go, as pasting does."""
        self.js("document.getElementById(arguments[0]).select()", name)
        self.js("document.execCommand('insertText', false, arguments[0])", text)

    def silent(self) -> None:
        assert self.driver.get_log("browser") == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or its driver is not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += "disable-component-update disable-sync disable-dev-shm-usage window-size=1280,900"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: Any) -> Page:
    return Page(browser)


@pytest.fixture(scope="module")
def onnxruntime_web() -> Path:
    try:
        return web.find_onnxruntime_web()
    except MissingDependencyError as error:
        pytest.skip(str(error))


LEVELS = {"char": "step", "word": "both", "whitespace": "step", "bpe": "step"}  # and the form of each file


@pytest.fixture(scope="module")
def folders(onnxruntime_web: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pages")
    return {
        level: export_model(checkpoint(level), base / level, "web", form, onnxruntime_web=onnxruntime_web)
        for level, form in LEVELS.items()
    }


@pytest.fixture(scope="module")
def urls(folders: dict[str, Path]) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {level: stack.enter_context(WebServer(folder)).url for level, folder in folders.items()}


def expected(folder: Path, prompt: str, **settings: Any) -> str:
    return generate(load(folder / "model.onnx"), [prompt], **settings)[0].text


def written(text: str, prompt: str, level: str) -> str:
    """What stands behind the prompt, without the space that the page sets between two words."""
    assert text.startswith(prompt)
    return text.removeprefix(prompt).removeprefix(" ") if level in ("word", "whitespace") else text.removeprefix(prompt)


CASES = [
    ({"temperature": 0}, {"do_sample": False}),
    ({"temperature": 1, "seed": 2**64 - 1}, {"temperature": 1.0, "seed": 2**64 - 1}),
    ({"temperature": 0.7, "top_k": 5, "seed": 3}, {"temperature": 0.7, "top_k": 5, "seed": 3}),
    ({"temperature": 1.3, "top_p": 0.8, "seed": 4}, {"temperature": 1.3, "top_p": 0.8, "seed": 4}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: next(reversed(case[0])))
@pytest.mark.parametrize(
    ("level", "prompt"),
    [
        ("char", "The naïve 😀\nbox"),
        ("word", "The lazy dog"),
        ("whitespace", "The lazy dog\nThe"),
        ("bpe", "naïve 😀 don't"),
    ],
)
def test_the_page_writes_what_python_writes(
    page: Page, folders: dict[str, Path], urls: dict[str, str], level: str, prompt: str, case: tuple[dict, dict]
) -> None:
    address, settings = case
    page.open(urls[level], prompt=prompt, length=150, **address)
    text = written(page.rest(), prompt, level)
    assert text == expected(folders[level], prompt, max_new_tokens=150, **settings)
    page.silent()


ADDRESSES: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0},
    "plain": {"temperature": 1, "seed": 11},
    "filtered": {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "seed": 11},
}


@pytest.mark.slow
@pytest.mark.parametrize("level", same_text.LEVELS)
@pytest.mark.parametrize("cell", same_text.CELLS)
def test_long_texts_are_numpys(page: Page, onnxruntime_web: Path, tmp_path: Path, cell: str, level: str) -> None:
    reference = same_text.reference(cell, level)
    tokenizer = reference.checkpoint.tokenizer
    folder = export_model(reference.checkpoint, tmp_path / "page", "web", onnxruntime_web=onnxruntime_web)
    with WebServer(folder) as server:
        page.open(server.url, prompt=reference.prompts[0], length=1)
        page.rest()
        for name, settings in same_text.SETTINGS.items():
            rows = []
            for prompt in reference.prompts:
                page.go(prompt=prompt, length=same_text.TOKENS, **ADDRESSES[name])
                rows.append(tokenizer.encode(written(page.rest(), prompt, level)).tolist())
            assert reference.faults(rows, settings, alone=True) == []
    page.silent()


def test_the_page_says_what_the_model_is_and_writes_at_once(
    page: Page, folders: dict[str, Path], urls: dict[str, str]
) -> None:
    page.open(urls["char"])
    text = page.rest()
    assert text == "The " + expected(folders["char"], "The ", max_new_tokens=600, temperature=0.8, seed=1)
    assert page.content("model-name") == "LSTM 2 × 6, after reading fox.txt"
    V = len(checkpoint("char").tokenizer.vocabulary)
    for fact in (f"{V} characters", "1,234 characters", "1.500", "4.48"):
        assert fact in page.content("facts")
    assert re.search(r"600 tokens[\d,]+ tokens/s[\d.]+ bits eachreached its length", page.content("report"))
    page.silent()


def test_writing_stops_at_once_and_keeps_the_text(page: Page, folders: dict[str, Path], urls: dict[str, str]) -> None:
    page.open(urls["char"], prompt="The", length=10000, seed=5)
    for stop in (lambda: page.find("#stop").click(), lambda: page.press(ESCAPE)):
        page.until(lambda: page.js(BUSY) and "stopped" not in page.content("report"), "nothing is written")
        page.until(lambda: len(page.content("text")) > 50, "nothing is written")
        stop()
        text = page.rest()
        time.sleep(0.3)
        assert page.content("text") == text
        count = len(text) - len("The")
        assert 40 < count < 10000
        assert text[3:] == expected(folders["char"], "The", max_new_tokens=count, temperature=0.8, seed=5)
        assert "stopped" in page.content("report")
        page.find("#prompt").send_keys(ENTER)  # writes again
    page.until(lambda: page.js(BUSY), "Enter does not write")
    page.find("#stop").click()
    page.silent()


def test_the_text_follows_prompt_and_settings_and_the_address_keeps_them(
    page: Page, folders: dict[str, Path], urls: dict[str, str]
) -> None:
    page.open(urls["char"], prompt="The", length=60)
    first = page.rest()
    page.fill("prompt", "The fox & co")  # '&' is not in the vocabulary: one line says so, and the text stays
    assert page.error() == 'the vocabulary has no character "&" (U+0026); leave it out'
    assert page.content("text") == first
    page.fill("prompt", "The fox")
    page.until(lambda: page.content("text").startswith("The fox"), "the text does not follow")
    settings = {"temperature": 1.25, "top_k": 7, "seed": 11, "max_new_tokens": 60}
    for key in ("temperature", "top_k", "seed"):
        page.fill(f"set-{key}", str(settings[key]))
    wanted = "The fox" + expected(folders["char"], "The fox", **settings)
    page.until(lambda: page.content("text") == wanted, "the text does not follow the settings")
    assert page.content("error") == ""
    shared = page.js("return location.href")
    page.driver.get("about:blank")
    page.driver.get(shared)
    assert page.rest() == wanted
    page.fill("set-seed", "1.5")
    assert page.error() == f"Seed: needs a whole number from 0 to {2**64 - 1}"
    assert page.content("text") == wanted
    page.silent()


def test_a_slider_moves_its_setting_by_keys(page: Page, folders: dict[str, Path], urls: dict[str, str]) -> None:
    page.open(urls["char"], prompt="The", length=40, temperature=2)
    page.rest()
    page.find(".row-temperature input[type=range]").send_keys(HOME)
    wanted = "The" + expected(folders["char"], "The", max_new_tokens=40, do_sample=False)
    page.until(lambda: page.content("text") == wanted, "the text does not follow the slider")
    assert "always the likeliest" in page.content("controls")
    page.silent()


@pytest.mark.parametrize("level", LEVELS)
def test_a_token_shows_its_surprise_and_the_alternatives(
    page: Page, folders: dict[str, Path], urls: dict[str, str], level: str
) -> None:
    page.open(urls[level], prompt="The", length=30, temperature=0.5, top_k=3, seed=2)
    page.rest()
    model = load(folders[level] / "model.onnx")
    text = generate(model, ["The"], max_new_tokens=30, temperature=0.5, top_k=3, seed=2)[0]
    ids = np.concatenate([prompt_tokens(model.tokenizer, "The"), text.tokens])[:, None]
    logits = model.step(ids[:-1], zero_state(model.config, 1))[0][-len(text.tokens) :, 0].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    page.js("document.querySelector('.t').focus()")
    for i, token in enumerate(text.tokens[:4]):
        bits, percent, _ = page.find(".figures").text.split(" · ")
        assert float(bits.removesuffix(" bits")) == pytest.approx(-np.log2(p[i, token]), abs=0.0051)
        assert float(percent.removesuffix(" %")) == pytest.approx(p[i, token] * 100, abs=0.051)
        rows = page.js("return [...document.querySelectorAll('.alternatives .percent')].map(e => e.textContent)")
        top = np.sort(p[i])[::-1][:5]
        assert [float(row.rstrip(" %")) for row in rows[:5]] == pytest.approx(top * 100, abs=0.051)
        assert len(page.driver.find_elements("css selector", ".alternatives .chosen")) == 1
        page.press(RIGHT)
    page.press(HOME)
    assert page.js("return document.activeElement.dataset.i") == "0"
    page.silent()


@pytest.mark.parametrize("width", [320, 360])
def test_the_page_fits_a_phone(page: Page, urls: dict[str, str], width: int) -> None:
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.open(urls["char"], prompt="The", length=200)
        page.rest()
        assert page.js("return document.documentElement.scrollWidth") == width
        assert page.js("return document.getElementById('settings').open") is False
        assert not page.find("#inspector").is_displayed()
        page.find(".t").click()
        assert page.find("#inspector").is_displayed()
        page.find("#inspector-close").click()
        assert not page.find("#inspector").is_displayed()
        page.find("#settings summary").click()
        assert page.find("#set-seed").is_displayed()
        assert page.js("return document.documentElement.scrollWidth") == width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.silent()


def test_dark_follows_the_system_until_somebody_chooses(page: Page, urls: dict[str, str]) -> None:
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    try:
        page.open(urls["char"], prompt="T", length=1)
        page.rest()
        colors = {"light": "rgb(243, 244, 246)", "dark": "rgb(12, 13, 16)"}
        for scheme, color in colors.items():
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            page.until(lambda color=color: page.js(paper) == color, f"the page is not {scheme}")
        page.find("#theme").click()
        assert page.js(paper) == colors["light"]
        page.driver.refresh()
        page.rest()
        assert page.js(paper) == colors["light"]
    finally:
        page.js("localStorage.clear()")
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.silent()


def damage_missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def damage_wrong(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"<html>not a model</html>")


def damage_form(folder: Path) -> None:
    export_model(checkpoint("char"), folder / "model.onnx", "onnx", "generate")


def damage_runtime(folder: Path) -> None:
    (folder / "ort" / web.RUNTIME[0]).unlink()


def damage_wasm(folder: Path) -> None:
    (folder / "ort" / web.RUNTIME[1]).unlink()


DAMAGES = [
    (damage_missing, r"model\.onnx: is not in this folder; `unrolled export RUN --format web` writes it .*404"),
    (damage_wrong, r"model\.onnx: not an ONNX file, or a damaged one"),
    (damage_form, r"model\.onnx: its form generate shows no probabilities; export the form step or both"),
    (damage_runtime, r"ort/ort\.wasm\.bundle\.min\.mjs: is not in this folder"),
    (damage_wasm, r"ort/ort-wasm-simd-threaded\.wasm: is not in this folder"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_is_one_line(
    page: Page, folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(folders["char"], tmp_path / "page")
    damage(folder)
    with WebServer(folder) as server:
        page.open(server.url)
        error = page.error()
    assert re.match(message, error)
    assert "\n" not in error
    assert page.content("model-name") == "No model"
