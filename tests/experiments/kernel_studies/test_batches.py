import grain
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.kernel_studies.batches import shuffled_batches


def batch(images, size=2):
    """A batch of constant images; 0 is padding or an image that cannot be read."""
    images = np.array(images)
    pixels = np.broadcast_to(images[:, None], (len(images), size))
    weight = np.float32(images > 0)
    return {"images": (pixels, 10 * pixels), "label": images, "weight": weight}


def shuffled(*batches, devices=1):
    return list(shuffled_batches(grain.MapDataset.source(batches), ["images"], devices))


def assert_exchanges(found, given, devices=1):
    """Checks that each image with a weight is after another one in its share, cyclically."""
    np.testing.assert_array_equal(found["label"], given["label"])  # is no input
    first, second = found["images"]
    np.testing.assert_array_equal(second, 10 * first)
    for share in np.split(np.arange(found["weight"].size), devices):
        for position, number in enumerate(share):
            if found["weight"][number]:
                assert (first[number] == given["label"][number]).all()
                before = first[share[position - 1]]
                assert (before > 0).all()
                assert (before != first[number]).all()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    "images",
    [
        [1, 2, 3, 4],
        [1, 2, 0, 0],
        [1, 0, 2, 0],
        [0, 1, 2, 3],
        [0, 1, 0, 3],
        [0, 0, 1, 2],
        [1, 2, 3, 0],
        [0, 0, 0, 0],
    ],
)
def test_blank_images_hold_another_real_image(images, devices):
    given = batch(images)
    (found,) = shuffled(given, devices=devices)
    assert_exchanges(found, given, devices)
    np.testing.assert_array_equal(found["weight"], given["weight"])


@pytest.mark.parametrize("last", [[5, 0, 0, 0], [0, 0, 5, 0]])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_single_image_is_with_one_of_the_batch_before_or_after(last, devices):
    full, given = batch([1, 2, 3, 4]), batch(last)
    for position, batches in enumerate([(given, full), (full, given)]):
        found = shuffled(*batches, devices=devices)[position]
        assert_exchanges(found, given, devices)
        np.testing.assert_array_equal(found["weight"], given["weight"])
    np.testing.assert_array_equal(given["images"][0][:, 0], last)  # unchanged


def test_an_image_without_another_of_its_size_is_left_out():
    batches = batch([1, 2, 3, 4], 2), batch([5, 0, 0, 0], 3), batch([6, 7, 0, 0], 2)
    found = shuffled(*batches)
    assert [each["weight"].sum() for each in found] == [4, 0, 2]
    assert_exchanges(found[2], batches[2])


def test_a_share_of_one_image_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size .*two images.*1"):
        shuffled(batch([1, 2]), devices=2)
