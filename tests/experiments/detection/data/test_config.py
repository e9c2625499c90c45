import pytest

from experiments.detection.data.config import DataConfig
from experiments.engine.config import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shorter": 0}, "shorter must be at least 1, got 0"),
        ({"shorter": 800, "longer": 799}, "longer must be at least 800, got 799"),
        ({"max_objects": 0}, "max_objects must be at least 1, got 0"),
        ({"mask_side": 0}, "mask_side must be at least 1, or None, got 0"),
        ({"source": "coco_boxes", "mask_side": 28}, "mask_side must be None for coco_boxes"),
    ],
)
def test_what_no_data_can_have(fields, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**fields)
