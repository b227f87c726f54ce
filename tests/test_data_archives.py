"""Downloads and prepared files: they are checked and atomic, and fail in one line."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ncjax.data import archives, prepared_files, record_writer
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def served(tmp_path):
    path = tmp_path / "served.bin"
    path.write_bytes(b"the archive" * 1000)
    return path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest(), path


def test_a_download_is_kept_and_not_fetched_twice(served, cache):
    url, md5, path = served
    content = path.read_bytes()
    downloads = cache / "downloads"
    downloads.mkdir(parents=True)
    for age, name in ((0, "running"), (2, "killed")):
        left = downloads / f"served.bin.{name}.part"
        left.touch()
        os.utime(left, times=(time.time() - age * 24 * 3600,) * 2)
    assert archives.download(url, md5).read_bytes() == content
    path.unlink()
    assert archives.download(url, md5) == cache / "downloads" / "served.bin"
    assert sorted(f.name for f in downloads.iterdir()) == ["served.bin", "served.bin.running.part"]


def test_a_wrong_or_failed_download_leaves_nothing(served, cache):
    url, _, path = served
    with pytest.raises(InputError, match=r"not the official 0000; download .* by hand and give its folder as data_dir"):
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


def _prepare():
    parts = {part: lambda: iter([(np.zeros((8, 8, 1), np.uint8), 0)]) for part in ("images", "test")}
    contents = record_writer.Contents("", "", (8, 8, 1), ("first", "second"), parts)
    return record_writer.prepare("few", "1.0.0", None, lambda: contents)


def test_what_a_killed_preparation_left_is_removed_after_a_day(cache):
    old, new = cache / "few" / ".incomplete-old", cache / "few" / ".incomplete-new"
    other = cache / "local" / "0123" / "folder" / ".incomplete-old"  # its images have changed
    for left in (old, new, other):
        left.mkdir(parents=True)
    day_ago = time.time() - 25 * 3600
    for left in (old, other):
        os.utime(left, (day_ago, day_ago))
    _prepare()
    assert not old.exists()
    assert not other.exists()
    assert new.exists()  # may belong to a process still at work


def _prepare_beside_another(barrier):
    def images():
        barrier.wait(120)  # nothing is prepared for either
        yield np.zeros((8, 8, 1), np.uint8), 0
        barrier.wait(120)  # neither has ended

    contents = record_writer.Contents("", "", (8, 8, 1), ("a",), {"images": images})
    prepared = record_writer.prepare("few", "1.0.0", None, lambda: contents)
    assert len(prepared.read([0]).images) == 1


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(cache):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=_prepare_beside_another, args=(barrier,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert not list(cache.rglob(".incomplete-*"))


def test_a_scratch_folder_that_vanishes_is_no_error(cache):
    """Another process ends and removes its scratch folder after this process has listed it."""
    (cache / "few").mkdir(parents=True)
    (cache / "few" / ".incomplete-gone").symlink_to(cache / "nowhere")  # listed, but missing
    prepared = _prepare()
    assert prepared.counts == {"images": 1, "test": 1}


def _lose(name):
    return lambda folder: (folder / name).unlink()


def _cut(name):
    def damage(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: min(100, len(whole) - 3)])

    return damage


def _empty(name):
    return lambda folder: (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        *(make(f"{name}.json") for name in ("dataset_info", "features") for make in (_lose, _cut, _empty)),
        *(make("label.labels.txt") for make in (_lose, _empty, _cut)),
        _lose("few-test.array_record-00000-of-00001"),
    ],
)
def test_prepared_files_that_lost_something_are_damaged_and_prepared_anew_once_deleted(damage):
    folder = _prepare().folder
    damage(folder)
    for open_again in (lambda: prepared_files.open_prepared(folder), _prepare):
        with pytest.raises(InputError, match=rf"damaged \(.*\); delete {folder}, they are then") as raised:
            open_again()
        assert "\n" not in str(raised.value)
    shutil.rmtree(folder)
    assert _prepare().class_names == ("first", "second")


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_that_looks_finished():
    code = (
        "import os, signal, sys, numpy as np; from ncjax.data import prepared_files, record_writer\n"
        "def images():\n"
        "    yield np.zeros((8, 8, 1), np.uint8), 0\n"
        "    if sys.argv[1] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "what = record_writer.Contents('', '', (8, 8, 1), ('a',), {'first': images, 'second': images})\n"
        "record_writer.prepare('few', '1.0.0', None, lambda: what)\n"
    )
    folder = prepared_files.folder_of("few", "1.0.0", None)
    killed = subprocess.run([sys.executable, "-c", code, "kill"], stderr=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert prepared_files.open_prepared(folder) is None
    assert subprocess.run([sys.executable, "-c", code, "finish"], check=False).returncode == 0
    assert prepared_files.open_prepared(folder).counts == {"first": 1, "second": 1}
