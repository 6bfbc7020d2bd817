"""Scores and reads faces with the library alone and in ComfyUI's Python: same torch, so the same numbers.

python score_files.py   reads one JSON object {"images": [paths], "codes": [codes]}, writes one with what is seen
"""

import json
import sys
from pathlib import Path

from PIL import Image

from auface_diffusers.evaluation.files import Entry, score_files
from auface_diffusers.facs import AUSet
from auface_diffusers.metrics.detectors import load_detector
from auface_diffusers.pictures import plain_rgb


def main():
    asked = json.load(sys.stdin)
    detector = load_detector("auface")
    pairs = zip(asked["images"], asked["codes"], strict=True)
    entries = [Entry(Path(image), AUSet.parse(codes), item=str(n)) for n, (image, codes) in enumerate(pairs)]
    scored = score_files(entries, detector, least=2)
    seen = detector([plain_rgb(Image.open(path)) for path in asked["images"]])
    levels = [
        {
            name: round(float(seen.level[row, column]), 2)
            for column, name in enumerate(detector.columns)
            if name in detector.coverage and seen.presence[row, column] >= 0.5
        }
        for row in range(len(seen.found))
    ]
    answer = {
        "fits": [row["fit"] for row in scored.rows],
        "aaad": scored.report["aaad"],
        "ci": scored.report["ci"],
        "seen": [AUSet(one).format() for one in levels],
    }
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
