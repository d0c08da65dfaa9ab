"""Getting one pinned wheel from the package index that this environment uses, checked by its sha256.

Through pip where there is one, for it knows the machine's mirrors, proxies and certificates. A virtual
environment may have none (uv makes such): then through the index's own pages (PEP 503 and PEP 691).
"""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from gdmix_core.compiled import cache_directory
from gdmix_core.errors import DataError, Unavailable

TIMEOUT_SECONDS = 180
DEFAULT_INDEX = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "text/html"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel that must be exactly this one."""

    project: str
    version: str
    file_name: str
    sha256: str


def fetch_wheel(wheel: PinnedWheel) -> Path:
    """Return the path of a wheel in the user's cache, downloaded at its first use.

    Raises:
        Unavailable: it cannot be downloaded; the message gives the reason.
        DataError: what was downloaded is not the wheel.
    """
    directory = cache_directory() / "downloads"
    cached = directory / wheel.file_name
    if cached.is_file() and sha256_of(cached) == wheel.sha256:
        return cached
    directory.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as scratch:
        downloaded = _download(wheel, Path(scratch))
        found = sha256_of(downloaded)
        if found != wheel.sha256:
            raise DataError(
                f"{wheel.file_name}: what was downloaded has sha256 {found}, not {wheel.sha256}; "
                "nothing was kept"
            )
        downloaded.replace(cached)
    return cached


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: PinnedWheel, directory: Path) -> Path:
    if importlib.util.find_spec("pip") is not None:
        return _download_by_pip(wheel, directory)
    return _download_from_index(wheel, directory)


# ---- through pip -----------------------------------------------------------------------------------------


def _download_by_pip(wheel: PinnedWheel, directory: Path) -> Path:
    requirement = directory / "requirement.txt"
    requirement.write_text(
        f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="ascii"
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-input", "--only-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(directory), "--requirement", str(requirement)]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip did not get {wheel.file_name} within {TIMEOUT_SECONDS} s") from error
    found = directory / wheel.file_name
    if done.returncode != 0 or not found.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), "no reason given")
        raise Unavailable(
            f"pip could not get {wheel.project} {wheel.version}: {reason.removeprefix('ERROR: ')}"
        )
    return found


# ---- from the index's pages ------------------------------------------------------------------------------


def _download_from_index(wheel: PinnedWheel, directory: Path) -> Path:
    reasons = []
    for index in index_urls():
        try:
            source = _find(index, wheel)
            if source is None:
                reasons.append(f"{_public(index)} has no {wheel.file_name}")
                continue
            target = directory / wheel.file_name
            with _open(source) as response, target.open("wb") as file:
                shutil.copyfileobj(response, file, _CHUNK_BYTES)
        except (OSError, ValueError) as error:
            reasons.append(f"{_public(index)}: {getattr(error, 'reason', None) or error}")
        else:
            return target
    raise Unavailable(f"no package index gave {wheel.project} {wheel.version}: {'; '.join(reasons)}")


def index_urls() -> list[str]:
    """Return the package indexes that this environment is set up for, in pip's order; PyPI by default."""
    first = next(
        (
            value
            for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
            if (value := os.environ.get(name, "").strip())
        ),
        "",
    )
    extra = os.environ.get("PIP_EXTRA_INDEX_URL", "").split()
    for section, key, value in _pip_settings():
        if section in {"global", "download"} and key == "index-url":
            first = first or value
        elif section in {"global", "download"} and key == "extra-index-url":
            extra += value.split()
    return list(dict.fromkeys([first or DEFAULT_INDEX, *extra]))


def _pip_settings() -> list[tuple[str, str, str]]:
    """Return (section, key, value) of pip's configuration files, the nearest first."""
    named = os.environ.get("PIP_CONFIG_FILE")
    user = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    candidates = [Path(named)] if named else []
    candidates += [
        Path(sys.prefix) / "pip.conf",
        user / "pip" / "pip.conf",
        Path("~/.pip/pip.conf").expanduser(),
    ]
    candidates += [Path("/etc/pip.conf")]
    found = []
    for path in candidates:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        found += [
            (section, key, value) for section in parser.sections() for key, value in parser.items(section)
        ]
    return found


def _find(index: str, wheel: PinnedWheel) -> str | None:
    """Return the address of the wheel's file on an index, None when it does not list it."""
    page = f"{index.rstrip('/')}/{wheel.project}/"
    if page.startswith("file:"):
        page += "index.html"
    with _open(page, accept=f"{_JSON}, {_HTML};q=0.1") as response:
        kind = response.headers.get_content_type()
        base = response.geturl()
        text = response.read().decode("utf-8")
    links = (
        {file["filename"]: file["url"] for file in json.loads(text)["files"]}
        if kind == _JSON
        else _links_of(text)
    )
    link = links.get(wheel.file_name)
    return None if link is None else urllib.parse.urldefrag(urllib.parse.urljoin(base, link)).url


class _Links(HTMLParser):
    """Collects the targets of a page's links by the last part of their path."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link."""
        target = dict(attrs).get("href") if tag == "a" else None
        if target:
            path = urllib.parse.urlsplit(target).path
            self.found[urllib.parse.unquote(path.rsplit("/", 1)[-1])] = target


def _links_of(page: str) -> dict[str, str]:
    parser = _Links()
    parser.feed(page)
    return parser.found


def _open(url: str, accept: str = "*/*") -> urllib.request._UrlopenRet:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in {"https", "http", "file"}:
        raise ValueError(f"{_public(url)} is not an http, https or file address")
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "gdmix"})  # noqa: S310 - checked above
    authority = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=authority) if scheme == "https" else None
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context)  # noqa: S310 - checked above


def _public(url: str) -> str:
    """Return an address without the user and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", url)
