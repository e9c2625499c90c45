"""A tfds dataset of the 1,797 handwritten digits of scikit-learn."""

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
_WHITE = 16  # the largest value in scikit-learn's images


class Digits(tfds.core.GeneratorBasedBuilder):
    """The 8x8 digits in three equal channels, enlarged to 32x32.

    The first 1,500 are for training, the last 297 for validation. Digits of one writer follow each
    other, so most digits for validation are of writers that are not in the training set.
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
        # Imported here, because the import takes a second, and reading does not need it.
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
    """Builds the dataset, unless it exists, and returns the folder from which to read it.

    Args:
        data_dir: folder of the tfds datasets.
    """
    builder = Digits(data_dir=data_dir)
    builder.download_and_prepare()
    return Path(builder.data_dir)
