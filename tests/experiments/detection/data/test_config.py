import pytest

from experiments.detection.data.config import DataConfig
from experiments.engine.config import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shorter": 0}, r"shorter.* 0$"),
        ({"shorter": 800, "longer": 799}, r"longer.* 800.* 799$"),
        ({"rounding": "ceil"}, r"rounding.*'floor'.*'ceil'"),
        ({"pad_multiple": 0}, r"pad_multiple.* 32.* 0$"),
        ({"pad_multiple": 48}, r"pad_multiple.* 32.* 48$"),
        ({"max_objects": 0}, r"max_objects.* 0$"),
        ({"mask_side": 0}, r"mask_side.* 0$"),
        ({"source": "coco_boxes", "mask_side": 28}, r"mask_side.*coco_boxes.* 28"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**fields)
