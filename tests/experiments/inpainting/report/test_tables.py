from experiments.engine.tables.table import Spread, save_tables
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.report.tables import bucket_table, metrics_table

ROW = {name: Spread(n + 0.25, 0.125) for n, name in enumerate(METRICS)}


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
    texts = [ROW[name].text(4 if name.startswith("ssim") else 2) for name in order]
    assert lines[4] == f"| one | {' | '.join(texts)} |"
    assert [line.split(" | ")[:3] for line in lines[-4:-2]] == [
        ["| 10-20 %", name, "12"] for name in ("one", "two")
    ]
    assert lines[-1] == "A note."
