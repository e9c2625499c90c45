import dataclasses
import io

import pytest
from rich.console import Console

from experiments.classification.presets import SMALL
from experiments.classification.tables import dry_run, run_table
from experiments.engine.optimization import ScheduleConfig
from experiments.engine.presets import Preset
from experiments.engine.settings import Operation

pytestmark = pytest.mark.slow


@pytest.fixture
def rows():
    config = SMALL[0].config
    training = dataclasses.replace(
        config.training, batch_size=16, schedule=ScheduleConfig(length=3, decay="constant")
    )
    model = dataclasses.replace(config.model, width=8)
    config = dataclasses.replace(config, model=model, training=training)
    return (Preset("tiny", "Table 0, tiny", config, "top-1 12.34 %"),)


def test_a_dry_run_tells_what_a_row_costs(rows):
    console = Console(file=io.StringIO(), width=150)
    dry_run(console, "table0", rows, batch_size=8)
    (row,) = [line for line in console.file.getvalue().splitlines() if "Table 0" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    # Of the standard 11,689,512: convolutions have a 64th at an eighth of the width, the stem and
    # the norms an eighth, and there are ten classes.
    stem, norms, classifier = 3 * 49 * 64, 2 * 4800, 513_000
    squared = (11_689_512 - classifier - stem - norms) // 64
    assert cells[1] == f"{squared + (stem + norms) // 8 + 64 * 10 + 10:,}"
    assert float(cells[2]) > 0
    assert float(cells[3]) > float(cells[5]) > 0  # a training step is longer than inference
    assert cells[-1] == "top-1 12.34 %"


def test_a_table_is_trained_row_by_row_and_not_again(rows, digits_dir, tmp_path):
    outputs = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=150)
        run_table(console, "table0", rows, tmp_path, digits_dir, Operation())
        outputs.append(console.file.getvalue())
    assert outputs[0] == outputs[1]
    (row,) = [line for line in outputs[0].splitlines() if "Table 0" in line]
    assert "top-1 12.34 %" in row
