"""Replaces fetched cutouts in tests by ellipses, with one colour for each class."""

import hashlib
import json
from pathlib import Path

from PIL import Image, ImageDraw

from experiments.data.composed.cutouts import Cutout, split_by_cutout
from experiments.data.composed.cutouts_manifest import CLASSES, CUTOUTS, cached_name


def write_fake_cutouts(cache):
    """Writes fake cutouts to a folder as if fetched; those for validation are greener."""
    cutouts = [Cutout(name, label, Path()) for label in CLASSES for name in CLASSES[label]]
    greener = {cutout.name for cutout in split_by_cutout(cutouts)[1]}
    folder = cache / CUTOUTS.name
    folder.mkdir()
    entries = {}
    for number, names in enumerate(CLASSES.values()):
        for cutout in names:
            image = Image.new("RGBA", (24, 30))
            green = 90 if cutout in greener else 0
            ImageDraw.Draw(image).ellipse((2, 3, 21, 26), fill=(20 * number, green, 255, 255))
            path = folder / cached_name(cutout)
            image.save(path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries[path.name] = {"size": len(content), "sha256": digest}
    (folder / "index.json").write_text(json.dumps({"files": entries}))
