"""A tfds data set of the 1,797 handwritten digits that scikit-learn ships."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float
from PIL import Image

DIGIT_SIDE = 32

_TRAINING_EXAMPLES = 1500
_WHITE = 16  # of scikit-learn's values


class Digits(tfds.core.GeneratorBasedBuilder):
    """The 8x8 digits in three equal channels, enlarged to 32x32.

    The first 1,500 are to train on, the last 297 to validate: digits of one writer follow each
    other, so that most of those to validate are by writers not trained on.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **options: Any) -> None:
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(DIGIT_SIDE, DIGIT_SIDE, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        # Here, because importing scikit-learn takes a second, and reading does not need it.
        from sklearn.datasets import load_digits

        digits = load_digits()
        total = len(digits.images)
        return {
            "train": self._generate_examples(digits, range(_TRAINING_EXAMPLES)),
            "validation": self._generate_examples(digits, range(_TRAINING_EXAMPLES, total)),
        }

    def _generate_examples(
        self, digits: Any, numbers: range
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in numbers:
            encoded = io.BytesIO()
            _enlarged(digits.images[number]).save(encoded, format="png")
            encoded.seek(0)
            yield number, {"image": encoded, "label": int(digits.target[number])}


def _enlarged(values: Float[np.ndarray, "8 8"]) -> Image.Image:
    grey = Image.fromarray(np.round(values * (255 / _WHITE)).astype(np.uint8))
    return grey.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BILINEAR).convert("RGB")


def prepare(data_dir: Path) -> Path:
    """Builds the data set, unless it is there, and returns the folder to read it from.

    Args:
        data_dir: tfds keeps its data sets in folders below this one.
    """
    builder = Digits(data_dir=data_dir)
    builder.download_and_prepare()
    return Path(builder.data_dir)
