"""Debian's chromium without a screen: what a page becomes when a script has worked on it."""

import html
import json
import re
import shutil
import subprocess

import pytest

_END = "</body>"


def chromium():
    """The browser, or a skipped test."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


def run(path, *options):
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def answers(page, script, folder, *, dark=False):
    """What a script's `answer({...})` calls hand over, in a page where it has run."""
    harness = (
        "<script>const answers = []; const answer = (a) => answers.push(a); try {"
        + script
        + "} catch (error) { answer({error: String(error)}); }"
        'const out = document.createElement("pre"); out.id = "answers";'
        "out.textContent = JSON.stringify(answers); document.body.append(out);</script>"
    )
    path = folder / "page.html"
    path.write_text(page.replace(_END, harness + _END), encoding="utf-8")
    dom = run(path, "--dump-dom", _scheme(dark))
    return json.loads(html.unescape(re.search(r'<pre id="answers">(.*?)</pre>', dom, re.S)[1]))


def _scheme(dark):
    return f"--blink-settings=preferredColorScheme={0 if dark else 1}"


def screenshot(path, picture, *, dark=False):
    run(path, f"--screenshot={picture}", "--window-size=900,500", _scheme(dark))
