"""A stand-in for the stamps that are fetched: ellipses of one colour a class."""

import hashlib
import json
from pathlib import Path

from PIL import Image, ImageDraw

from experiments.data.composed.stamps import Stamp, split_by_stamp
from experiments.data.composed.stamps_manifest import CLASSES, STAMPS, kept_name


def write_fake_stamps(cache):
    """Leaves in a folder what a fetch of the stamps leaves; those for validation are greener."""
    stamps = [Stamp(name, label, Path()) for label in CLASSES for name in CLASSES[label]]
    greener = {stamp.name for stamp in split_by_stamp(stamps)[1]}
    folder = cache / STAMPS.name
    folder.mkdir()
    entries = {}
    for number, stamps in enumerate(CLASSES.values()):
        for stamp in stamps:
            image = Image.new("RGBA", (24, 30))
            green = 90 if stamp in greener else 0
            ImageDraw.Draw(image).ellipse((2, 3, 21, 26), fill=(20 * number, green, 255, 255))
            path = folder / kept_name(stamp)
            image.save(path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries[path.name] = {"size": len(content), "sha256": digest}
    (folder / "index.json").write_text(json.dumps({"files": entries}))
