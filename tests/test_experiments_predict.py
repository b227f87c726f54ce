"""experiments/predict.py: labelled images in, a table of predictions out."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from commands import Done, inside
from PIL import Image

import ncjax
from ncjax.data import Split
from ncjax.eval import FewShotClassifier, fit

pytestmark = pytest.mark.cheap_compilation

SUPPORT = tiny.split(3, 5, seed=2)
QUERIES = tiny.split(3, 4, seed=2, draw=1)


def _pixels(variables: jax.Array, images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) * variables


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> ncjax.Classifier:
    """Makes --run=anything mean an encoder whose features are the pixels."""
    params = ncjax.Classifier.from_callable(_pixels, jnp.ones(()))
    monkeypatch.setattr("experiments.predict.load_encoder", lambda options: (params, (12, 12, 1)))
    return params


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes labelled/ with three classes of five images, and new/ with twelve images."""
    for image, label in zip(SUPPORT.images, SUPPORT.labels, strict=True):
        class_folder = tmp_path / "labelled" / SUPPORT.class_names[label]
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(class_folder / f"{len(list(class_folder.iterdir()))}.png")
    (tmp_path / "new").mkdir()
    for i, image in enumerate(QUERIES.images):
        Image.fromarray(image[..., 0]).save(tmp_path / "new" / f"{i:02}.png")
    return tmp_path


def test_a_table_a_page_and_a_file(folder: Path, encoder: ncjax.Classifier) -> None:
    pytest.importorskip("jinja2")
    _keep_three(folder)
    rows = np.flatnonzero(np.arange(15) % 5 < 3)
    support = Split(SUPPORT.images[rows], SUPPORT.labels[rows], SUPPORT.class_names)
    done = _check_predictions(folder, fit(encoder, support), "--run=some", "--html=page.html", "--save=mine.npz")
    assert "No prediction from the spread of the features: it takes four images of each class." in done.stdout
    page = (folder / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12
    assert "://" not in page
    again = inside("predict.py", "--run=some", "--images=new", "--classifier=mine.npz", "--out=again.csv", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "again.csv").read_text() == (folder / "predictions.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_a_run_predicts_with_probabilities(folder: Path, finished: Path) -> None:
    fitted = fit(ncjax.restore(finished), SUPPORT, head="logistic")
    done = _check_predictions(folder, fitted, f"--run={finished}", "--head=logistic")
    assert "for the nearest class centre and 5 images a class: " in done.stdout


def _keep_three(folder: Path) -> None:
    """Leaves three images of each class, too few for the prediction from theory, which takes seconds to compile."""
    for class_folder in (folder / "labelled").iterdir():
        (class_folder / "4.png").unlink()
        (class_folder / "3.png").unlink()


def _check_predictions(folder: Path, fitted: FewShotClassifier, *arguments: str) -> Done:
    done = inside("predict.py", "--support=labelled", "--images=new", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    expected = fitted.classify(QUERIES)
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [f"new/{i:02}.png" for i in range(12)]
    assert [row["class"] for row in rows] == expected.names.tolist()
    assert [row["runner_up"] for row in rows] == expected.runner_up.tolist()
    np.testing.assert_allclose([float(row["margin"]) for row in rows], expected.margin, rtol=1e-4)
    if expected.probabilities is None:
        assert {row["probability"] for row in rows} == {""}
    else:
        np.testing.assert_allclose(
            [float(row["probability"]) for row in rows], expected.probabilities.max(1), rtol=1e-4
        )
    left_out = fitted.leave_one_out()
    assert f"Leave-one-out on the support: {left_out.correct} of {left_out.images} right" in done.stdout
    assert "an image of anything else also gets one of their names" in done.stdout
    return done


@pytest.mark.usefixtures("encoder")
def test_images_that_cannot_be_read_are_left_out_and_reported(folder: Path) -> None:
    _keep_three(folder)
    (folder / "new" / "03.png").write_text("<html>")
    common = ["--run=some", "--support=labelled", "--images=new"]
    done = inside("predict.py", *common, cwd=folder)
    assert done.returncode == 0
    assert "left out: new/03.png is not an image" in done.stderr
    assert (folder / "predictions.csv").read_text().count("\n") == 12
    (folder / "predictions.csv").unlink()
    for path in (folder / "new").iterdir():
        path.write_text("<html>")
    done = inside("predict.py", *common, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none of 12 images can be read; for example new/11.png is not an image" in done.stderr
    assert not (folder / "predictions.csv").exists()


@pytest.mark.usefixtures("encoder")
def test_mistakes_are_one_line(folder: Path) -> None:
    (folder / "one" / "cat").mkdir(parents=True)
    (folder / "hollow" / "a").mkdir(parents=True)
    (folder / "hollow" / "b").mkdir(parents=True)
    run, support, images = "--run=some", "--support=labelled", "--images=new"
    wrong = [
        ([support, images], "give either --run=PATH of a run, or --encoder=SPEC"),
        ([run, images], "give either --support=FOLDER of labelled images, or --classifier=FILE"),
        ([run, support], "give --images=FOLDER or files to classify, or --save=FILE"),
        ([run, images, "--support=one"], "has 1 sub-folders; give two classes or more"),
        ([run, images, "--support=hollow"], "class 'a' of --support=hollow has no images"),
        ([run, images, "--support=none"], "--support=none is no folder"),
        ([run, support, "--images=none"], "none does not exist; name image files"),
        ([run, images, "--classifier=none.npz"], "none.npz is no file of FewShotClassifier.save"),
        ([run, support, images, "--tune", "--data_dir=nowhere"], "error: some"),
    ]
    for arguments, message in wrong:
        done = inside("predict.py", *arguments, cwd=folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
        assert not (folder / "predictions.csv").exists()


def test_an_encoder_from_elsewhere_sees_images_of_its_own_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _keep_three(folder)
    (folder / "own_encoder.py").write_text(
        "from ncjax import encoders\n"
        "def make():\n"
        "    return encoders.from_function(lambda x: x.reshape(len(x), 24 * 24 * 3)[:, ::7], image_size=24)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    arguments = ["--encoder=own_encoder:make", "--support=labelled", "--images=new"]
    done = inside("predict.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "predictions.csv").read_text().count("\n") == 13
