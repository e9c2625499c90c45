import numpy as np
import pytest

from experiments.inpainting.metrics import METRICS
from experiments.inpainting.report.tables import Spread, bucket_table, metrics_table, save_tables

ROW = {name: Spread(n + 0.25, 0.125) for n, name in enumerate(METRICS)}


def test_a_spread_is_mean_and_sample_standard_deviation():
    values = [19.5, 20.25, 21.0]
    assert Spread.of(values) == Spread(
        pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1))
    )
    assert Spread.of([3.0]) == Spread(3.0)


@pytest.mark.parametrize(
    ("spread", "metric", "sign", "text"),
    [
        (Spread(20.927, 0.0512), "psnr_image", "", "20.93 ± 0.05"),
        (Spread(0.91234), "ssim_hole", "", "0.9123"),
        (Spread(1.35), "psnr_image", "+", "+1.35"),
        (Spread(-0.001), "l1_image", "", "0.00"),
        (Spread(-0.87), "l1_image", "+", "-0.87"),
    ],
)
def test_texts_of_spreads(spread, metric, sign, text):
    assert spread.text(metric, sign) == text


def test_tables_as_markdown(tmp_path):
    bucket = {f"{name}/10-20": Spread(1.0) for name in METRICS}
    rows = {"one": {**ROW, **bucket, "images/10-20": Spread(12.0)}}
    rows["two"] = rows["one"]
    tables = [metrics_table("All", rows), bucket_table("By hole", rows)]
    save_tables(tmp_path / "table.md", tables, ["A note."])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "All:"
    assert lines[2] == ("|  | L1, % | PSNR, dB | SSIM | hole L1, % | hole PSNR, dB | hole SSIM |")
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    order = ["l1_image", "psnr_image", "ssim_image", "l1_hole", "psnr_hole", "ssim_hole"]
    assert lines[4] == f"| one | {' | '.join(ROW[name].text(name) for name in order)} |"
    assert [line.split(" | ")[:3] for line in lines[-4:-2]] == [
        ["| 10-20 %", name, "12"] for name in ("one", "two")
    ]
    assert lines[-1] == "A note."
