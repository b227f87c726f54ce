"""Downloads and prepared files: checked, atomic, and one line when they fail."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ncjax.data import archives, records
from ncjax.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NCJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path):
    path = tmp_path / "served.bin"
    path.write_bytes(b"the archive" * 1000)
    return path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest(), path


def test_a_download_is_kept_and_not_fetched_twice(served, cache):
    url, md5, path = served
    content = path.read_bytes()
    assert archives.download(url, md5).read_bytes() == content
    path.unlink()
    assert archives.download(url, md5) == cache / "downloads" / "served.bin"
    assert [f.name for f in (cache / "downloads").iterdir()] == ["served.bin"]


def test_a_wrong_or_failed_download_leaves_nothing(served, cache):
    url, _, path = served
    with pytest.raises(InputError, match=r"not the official 0000; fetch .* by hand and name its folder with data_dir"):
        archives.download(url, "0000")
    path.unlink()
    with pytest.raises(InputError, match=r"cannot download .*served\.bin") as raised:
        archives.download(url, "0000")
    assert "\n" not in str(raised.value)
    assert list((cache / "downloads").iterdir()) == []


def test_a_damaged_download_is_named(served, cache):
    url, md5, _ = served
    archives.download(url, md5).write_bytes(b"short")
    with pytest.raises(InputError, match="delete the file first"):
        archives.download(url, md5)


@pytest.mark.parametrize("name", ["../up", "/root", "a/../../b", "a\\..\\..\\b"])
def test_paths_out_of_an_archive_are_refused(tmp_path, name):
    archives.check_member_names(tmp_path, ["a/b..c", "a/b"])
    with pytest.raises(InputError, match="a path outside its own folder"):
        archives.check_member_names(tmp_path, ["a/b", name])


def test_cache_folder_by_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("NCJAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert archives.cache_dir() == tmp_path / "ncjax" / "data"


def test_what_a_killed_preparation_left_is_removed_after_a_day(cache):
    def prepare(name):
        images = {"images": lambda: iter([(np.zeros((8, 8, 1), np.uint8), 0)])}
        records.prepare("few", name, None, lambda: records.Contents("", "", (8, 8, 1), ("a",), images))

    old, new = cache / "few" / ".incomplete-old", cache / "few" / ".incomplete-new"
    for left in (old, new):
        left.mkdir(parents=True)
    day_ago = time.time() - 25 * 3600
    os.utime(old, (day_ago, day_ago))
    prepare("1.0.0")
    assert not old.exists()
    assert new.exists()  # may belong to a process still at work


def test_a_killed_preparation_leaves_nothing_that_looks_finished():
    code = (
        "import os, signal, sys, numpy as np; from ncjax.data import records\n"
        "def images():\n"
        "    yield np.zeros((8, 8, 1), np.uint8), 0\n"
        "    if sys.argv[1] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "what = records.Contents('', '', (8, 8, 1), ('a',), {'first': images, 'second': images})\n"
        "records.prepare('few', '1.0.0', None, lambda: what)\n"
    )
    folder = records.folder_of("few", "1.0.0", None)
    killed = subprocess.run([sys.executable, "-c", code, "kill"], stderr=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert records.open_prepared(folder) is None
    assert subprocess.run([sys.executable, "-c", code, "finish"], check=False).returncode == 0
    assert records.open_prepared(folder).counts == {"first": 1, "second": 1}
