"""The commands that users type, as they type them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import ROOT, Done, inside, typed

PRETRAIN = (
    "--dataset=npz", "--data_dir=images.npz", "--network=mlp-2-16", "--batch_size=16", "--preset=smoke",
    "--workdir=run", "--measure_episodes=100", "--measurements=0",
)  # fmt: skip

pytestmark = pytest.mark.cheap_compilation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set, images.npz, and a finished run of it, run/."""
    path = tmp_path_factory.mktemp("user")
    parts = {
        "source": tiny.split(6, 24, seed=1),
        "validation": tiny.split(5, 21, seed=2),
        "target": tiny.split(5, 21, seed=3),
    }
    np.savez(
        path / "images.npz",
        images=np.concatenate([part.images for part in parts.values()]),
        labels=np.concatenate([part.labels + 10 * i for i, part in enumerate(parts.values())]),
        split=np.concatenate([np.full(len(part.labels), name) for name, part in parts.items()]),
    )
    rows = np.random.default_rng(0).normal(size=(60, 8))
    np.savez_compressed(path / "mangled.npz", features=rows, labels=np.arange(60) % 6)
    np.savez(path / "scalar.npz", features=3.0, labels=2)
    mangled = bytearray((path / "mangled.npz").read_bytes())
    mangled[1000:1010] = bytes(10)
    (path / "mangled.npz").write_bytes(mangled)
    (path / "many" / "seed_0").mkdir(parents=True)
    done = typed("pretrain.py", *PRETRAIN, cwd=path)
    assert done.returncode == 0, done.stderr
    (path / "printed").write_text(done.stdout)
    return path


def test_pretrain_prints_a_table_and_leaves_a_run(folder: Path) -> None:
    printed = (folder / "printed").read_text()
    assert "CDNV target" in printed
    assert "run     run" in printed
    per_class = json.loads((folder / "run" / "config.json").read_text())["data"]["measured_per_class"]
    assert f"on {per_class} images a class in every set" in printed
    for name in ("config.json", "metrics.jsonl", "timing.jsonl", "figures/collapse.png", "checkpoints"):
        assert (folder / "run" / name).exists()
    cache = folder / "cache" / "ncjax" / "compiled"
    assert cache.stat().st_mode & 0o077 == 0  # compiled programs are private to this user


def test_a_finished_run_prints_its_table_again(folder: Path) -> None:
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    again = inside("pretrain.py", *PRETRAIN, cwd=folder)
    assert again.returncode == 0
    printed = (folder / "printed").read_text().splitlines()
    assert printed[-1].startswith("time    ")  # of the training, which was done before
    assert again.stdout.splitlines() == printed[:-1]
    assert "step/s" not in again.stderr  # it did not train
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_evaluate_prints_intervals_and_writes_json(folder: Path) -> None:
    done = typed(
        "evaluate.py", "--run=run", "--episodes=200", "--queries=10", "--tune", "--theory", "--layers", "--curves",
        "--intervals", "--probes", "--format=csv",
        "--shots", "1", "5", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in (
        "5-way 5-shot",
        "95 %, new classes",
        "ridge(alpha=",
        "logistic(C=",
        "vacuous",
        "effective depth",
        "new classes",
    ):
        assert words in done.stdout
    written = json.loads((folder / "run" / "evaluation.json").read_text())
    assert len(written["episodes"]) == 6
    assert len(written["layers"]) == 2
    assert {"accuracy", "ci95", "target_ci95", "plan_hash"} <= written["episodes"][0].keys()
    for figure in ("curves", "theory"):
        assert (folder / "run" / "figures" / f"{figure}.png").exists()
    arguments = ["--run=run", "--split=source_train", "--intervals", "--heads", "ncc", "--shots", "1", "--episodes=100"]
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert written["collapse"]["cdnv"] == pytest.approx(records[-1]["target/cdnv"], rel=1e-6)  # of the same images
    other = typed("evaluate.py", *arguments, cwd=folder)
    assert other.returncode == 0, other.stderr
    of_split = json.loads((folder / "run" / "source_train.evaluation.json").read_text())
    assert of_split["subject"].startswith("source_train")
    assert "it needs a head" not in other.stdout  # NC4 is of the run's head
    assert "nc1_quotient" in of_split["collapse_ci95_over_samples"]
    assert json.loads((folder / "run" / "evaluation.json").read_text()) == written


def test_evaluate_features_from_anywhere(folder: Path) -> None:
    features = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.savez(folder / "mine.npz", features=features, labels=np.repeat([f"class {i}" for i in range(10)], 20))
    arguments = ["--features=mine.npz", "--episodes=500", "--heads", "ncc", "--out=results/mine.json", "--all_measures"]
    done = inside("evaluate.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "results" / "mine.json").read_text())
    assert written["collapse"]["k"] == 10
    assert all(name.startswith("class ") for name in written["collapse"]["worst_pair"])
    # numbers with their names, as a table that can be redirected
    names = [f"tree {i}" for i in range(10)]
    np.savez(folder / "numbered.npz", features=features, labels=np.repeat(np.arange(10), 20), class_names=names)
    done = inside("evaluate.py", "--features=numbered.npz", *arguments[1:], "--format=csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "measure,these images"
    assert lines[1] == f"CDNV ↓,{written['collapse']['cdnv']:.4g}"
    assert "Worst pair: tree" in done.stdout or "hangs on one pair: tree" in done.stdout
    again = json.loads((folder / "results" / "mine.json").read_text())
    assert again["collapse"]["worst_pair"] == [
        name.replace("class", "tree") for name in written["collapse"]["worst_pair"]
    ]
    assert 0 < written["collapse"]["spectra"]["vci"] < 1
    assert "one class from the rest" in done.stdout
    chance = written["episodes"][0]
    assert abs(chance["accuracy"] - 0.2) < 0.05


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("pretrain.py", ["--dataset=nothing"], "unknown data set 'nothing'; choose one of"),
        ("pretrain.py", ["--network=resnet-1000"], "no network is called 'resnet-1000'; known:"),
        ("pretrain.py", ["--learning_rate=-1"], "learning_rate=-1.0: it must be positive"),
        ("pretrain.py", ["--dataset=cifar_fs", "--data_dir=."], "cifar-100-python"),
        ("pretrain.py", ["--num_source_classes=5000"], "5000"),
        ("pretrain.py", ["--workdir=run"], "holds another run"),
        ("pretrain.py", ["--workdir=images.npz/run"], "cannot write to images.npz/run"),
        ("evaluate.py", [], "give either --run=PATH of a run, or --features=FILE.npz, or"),
        ("evaluate.py", ["--run=nowhere"], "nowhere holds no run"),
        ("evaluate.py", ["--run=many"], "many holds runs of many seeds; give one of them, for example many/seed_0"),
        ("evaluate.py", ["--features=images.npz"], "images.npz has no array 'features'; save one with"),
        ("evaluate.py", ["--run=run", "--tune", "--split=validation"], "leave one of them out"),
        ("evaluate.py", ["--run=run", "--ways=50"], "50"),
        ("evaluate.py", ["--run=run", "--curves", "--support_augmentations=2"], "leave out --support_augmentations"),
        ("evaluate.py", ["--run=run", "--out=."], "--out=. is a folder; name a file in it"),
        ("evaluate.py", ["--features=mangled.npz"], "mangled.npz cannot be read as an .npz file"),
        ("evaluate.py", ["--features=scalar.npz"], "labels of scalar.npz have shape (); give one label a row"),
        ("evaluate.py", ["--features=scalar.npz", "--probes"], "--probes needs images to train and to test on"),
        ("claims.py", [], "give the folder of a run of pretrain.py"),
        ("claims.py", ["run", "--out=run"], "--out=run is a folder; name a file in it"),
        ("claims.py", ["run", "--out=images.npz/claims.json"], "cannot be written: "),
        ("claims.py", ["run", "--episodes=1"], "episodes=1: give at least 2, or --no_bounds"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(script: str, arguments: list[str], words: str, folder: Path) -> None:
    assert_one_line(inside(script, *arguments, cwd=folder), words)
    assert not (folder / "runs").exists()  # nothing half-written


def assert_one_line(done: Done, words: str) -> None:
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_a_mistake_in_a_process_of_its_own(folder: Path) -> None:
    assert_one_line(typed("evaluate.py", "--run=nowhere", cwd=folder), "nowhere holds no run")


def test_help_says_a_line_for_every_flag(tmp_path: Path) -> None:
    done = inside("pretrain.py", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--dataset", "--data_dir", "--network", "--epochs", "--learning_rate", "--workdir", "--seeds"):
        assert flag in done.stdout


@pytest.mark.slow
def test_sigterm_saves_and_exits_75_and_the_same_command_continues(folder: Path, tmp_path: Path) -> None:
    arguments = [
        sys.executable, str(ROOT / "experiments" / "pretrain.py"), "--dataset=npz",
        f"--data_dir={folder / 'images.npz'}", "--preset=smoke", "--min_steps=400", "--workdir=run",
        "--measure_episodes=50", "--measurements=0",
    ]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_NUM_CPU_DEVICES": "2"}
    running = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    timing = tmp_path / "run" / "timing.jsonl"
    while running.poll() is None and not (timing.exists() and '"steps"' in timing.read_text()):
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, messages = running.communicate()
    assert running.returncode == 75
    assert "the same command continues" in messages.splitlines()[-1]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 400]
