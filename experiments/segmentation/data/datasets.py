"""The datasets of the segmentation task (a stand-in with the interface of the datasets)."""

from experiments.data.label_maps import LabelMaps
from experiments.engine.folders import DataFolders
from experiments.segmentation.data.config import DataConfig


def open_data(config: DataConfig, folders: DataFolders) -> LabelMaps:
    """Opens a dataset."""
    raise NotImplementedError
