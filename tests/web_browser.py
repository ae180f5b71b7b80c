#!/usr/bin/env python3
"""The page of `make web` in a headless Chromium, from a plain server and as a file: texts are those of the native
program, other models can be chosen and dropped, errors are shown. Run by tests/web.sh.
usage: tests/web_browser.py BUILD MODEL.sqm http|file    (exit status 77: no playwright, or no browser)"""
import functools
import http.server
import pathlib
import re
import shutil
import subprocess
import sys
import threading

try:
    from playwright.sync_api import Error, sync_playwright
except ImportError:
    sys.exit(print("no Python package playwright") or 77)

build, model, scheme = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def address():
    if scheme == "file":
        return (build / "web" / "index.html").as_uri()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=build / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def write(page, prompt, tokens, seed, temperature):
    page.fill("#prompt", prompt)
    for name, value in (("tokens", tokens), ("seed", seed), ("temperature", temperature)):
        page.fill("#" + name, str(value))
    page.click("#go")


def check_text(page, prompt, tokens, seed, temperature):
    write(page, prompt, tokens, seed, temperature)
    page.wait_for_function("document.getElementById('status').textContent.endsWith('(done)')")
    status = page.inner_text("#status")
    assert f"{tokens} written" in status and "tokens/s" in status, status
    native = subprocess.run([build / "generate", model, prompt, "--echo", "-n", str(tokens), "--seed", str(seed),
                             "--temp", str(temperature)], check=True, capture_output=True).stdout.decode()
    assert page.text_content("#text") + "\n" == native, page.text_content("#text")
    print(f"{scheme}: {status}")


def error_of(page):
    return page.wait_for_selector("#status.error").inner_text()


def check(page):
    page.goto(address())
    page.wait_for_function("!document.getElementById('go').disabled")
    about = page.inner_text("#model")
    assert re.fullmatch("[a-z]+: 8[0-9]{2},[0-9]{3} parameters, context of [0-9,]+ tokens.", about), about
    check_text(page, "ROMEO:", 400, 7, 0.8)
    check_text(page, "JULIET:", 200, 5, 1.2)
    write(page, "ROMEO:", 2000, 1, 0.8)                # stopped on its way
    page.wait_for_function("document.getElementById('status').textContent.includes('tokens/s')")
    page.click("#go")
    page.wait_for_function("document.getElementById('status').textContent.endsWith('(stopped)')")
    page.set_input_files("#file", {"name": "bad.sqm", "mimeType": "", "buffer": b"x" * 1000})
    assert error_of(page) == "bad.sqm: not a .sqm weight file: the first bytes are not its signature"
    assert page.is_disabled("#go")
    page.set_input_files("#file", model)
    page.wait_for_function("!document.getElementById('go').disabled")
    check_text(page, "ROMEO:", 50, 7, 0)
    dropped = page.evaluate_handle("() => { const data = new DataTransfer();"
                                   " data.items.add(new File(['short'], 'short.sqm')); return data; }")
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    assert error_of(page) == "short.sqm: weight file has 5 bytes, its header alone has 64"


with sync_playwright() as playwright:
    names = ("chromium", "chromium-browser", "google-chrome")
    try:
        browser = playwright.chromium.launch(executable_path=next(filter(None, map(shutil.which, names)), None),
                                             args=["--no-sandbox"])
    except Error as error:
        sys.exit(print(f"no Chromium: {str(error).splitlines()[0]}") or 77)
    page = browser.new_page()
    failures = []
    page.on("pageerror", lambda error: failures.append(error))
    check(page)
    assert not failures, failures
    browser.close()
