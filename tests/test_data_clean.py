"""The cache folder: cleaning and permissions; and the refresh of progress bars."""

import hashlib
import io
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from ncjax import data
from ncjax.data import archives, cleaning
from ncjax.data.__main__ import main
from ncjax.progress import progress, progress_bar, quietly, remark

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def own(tmp_path):
    for name in "abcd":
        (tmp_path / "own" / name).mkdir(parents=True)
        for image in range(2):
            Image.new("L", (8, 8), 9).save(tmp_path / "own" / name / f"{image}.png")
    return tmp_path / "own"


def _prepared(cache):
    return set(cache.glob("local/*/folder/*"))


def test_clean_removes_the_copies_of_touched_folders(own, cache, capsys):
    def load(size):
        before = _prepared(cache)
        benchmark = data.load("folder", data_dir=own, image_size=size)
        assert benchmark.made_with.keys() == {"pillow", "numpy"}
        return next(iter(_prepared(cache) - before), None)

    first, small = load(8), load(9)
    os.utime(own / "a" / "0.png", (1, 1))
    second = load(8)
    for age, folder in ((3, first), (2, small), (1, second)):
        os.utime(folder, (time.time() - age,) * 2)
    assert main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [str(first) in line for line in listed if "--clean removes it" in line] == [True]

    foreign = [cache / "cifar100" / "3.0.2" / "data", cache / "downloads" / "cifar.tar.gz", cache / "local" / "notes"]
    for path in foreign:  # not from ncjax
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    killed = cache / "downloads" / "cifar.tar.gz.1.part"
    killed.write_text("")
    os.utime(killed, (1, 1))
    (small / "features.json").write_text("{")
    former = first.parent.parent.parent / "0123" / "folder" / "1.0.0"
    shutil.copytree(second, former)
    (former / "metadata.json").write_text('{"class_names": ["a", "b", "c", "d"], "left_out": []}')

    assert main(["--clean"]) == 0
    said = capsys.readouterr().out
    assert f"removed {first}: {own} has changed since, " in said
    assert f"removed {small}: damaged, " in said
    assert f"removed {former}: of an earlier version of ncjax" in said
    assert f"removed {killed}: left by a process that was killed, 0.0 MB" in said
    assert said.splitlines()[-1].endswith(f" MB freed in {cache}")
    assert _prepared(cache) == {second}
    assert sorted(path.name for path in (cache / "local").iterdir()) == sorted(["notes", second.parent.parent.name])
    assert all(path.exists() for path in foreign)
    assert load(8) is None  # read, not prepared

    assert cleaning.leftovers() == []
    shutil.rmtree(own)
    assert [leftover.reason for leftover in cleaning.leftovers()] == [f"{own} does not exist any more"]


def test_a_download_can_be_read_by_whoever_may_read_the_cache(tmp_path):
    path = tmp_path / "served.bin"
    path.write_bytes(b"x")
    before = os.umask(0o022)
    try:
        fetched = archives.download(path.as_uri(), hashlib.md5(b"x").hexdigest())
    finally:
        os.umask(before)
    assert fetched.stat().st_mode & 0o777 == 0o644


def test_bars_are_of_a_terminal_and_of_one_process(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    list(progress([1, 2], "reading"))
    assert progress_bar("reading", "image").disable  # a log would keep every state of a bar
    written.isatty = lambda: True
    with quietly():
        assert progress_bar("reading", "image").disable
        remark("not heard")
    assert written.getvalue() == ""
    now = [0.0]
    bar = progress_bar("reading", "image", total=100)
    bar._time = lambda: now[0]
    bar.start_t = bar.last_print_t = 0.0
    for _ in range(100):  # of a fifth of a second each
        now[0] += 0.2
        bar.update()
    bar.close()
    assert written.getvalue().count("reading:") > 1

    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert progress_bar("reading", "image").disable
    assert list(progress([1, 2], "reading")) == [1, 2]
    written.truncate(0)
    remark("of the other process")
    assert "other" not in written.getvalue()
    monkeypatch.setattr("jax.process_index", lambda: 0)
    remark("of process 0")
    assert "of process 0\n" in written.getvalue()


def test_loading_does_not_start_the_backend(monkeypatch, tmp_path):
    """Devices can be chosen, and processes joined, after data has been loaded."""

    def start():
        raise AssertionError("the backend was asked")

    monkeypatch.setattr("jax.process_index", start)
    np.savez(tmp_path / "own.npz", images=np.zeros((40, 4, 4), np.uint8), labels=np.repeat(np.arange(4), 10))
    data.load("npz", data_dir=tmp_path / "own.npz")
    list(progress([1], "values"))
