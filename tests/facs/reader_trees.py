"""Miniature files and folders in the formats of the data sets and detectors, for the tests of the readers."""

from auface_diffusers.facs.units import units


def write(path, *lines, end="\n", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return path


def table(path, header, *rows, separator=",", **options):
    return write(path, *(separator.join(map(str, row)) for row in (header, *rows)), **options)


# --- BP4D, BP4D+ -----------------------------------------------------------------------------------------------------


def bp4d_header(source="bp4d", wide=False):
    """Columns of an AU_OCC table: the coded units, or one for every number as in some copies of BP4D."""
    return ["0", *(range(1, 100) if wide else units.labelled_in(source))]


def bp4d_row(header, frame, present=(), unknown=(), **other):
    """A row of an AU_OCC table: 1 for ``present``, 9 for ``unknown`` and for what BP4D did not code, else 0."""
    coded = units.labelled_in("bp4d+")
    values = {str(code): 1 for code in present} | {str(code): 9 for code in unknown} | other
    return [frame, *(values.get(str(code), 0 if str(code) in coded else 9) for code in header[1:])]


def bp4d(root, source="bp4d", wide=False):
    """F001 T1 and T10 (numeric order!) and M002 T1, with intensities of 6 and 12 for the first."""
    coding = root / "AUCoding"
    header = bp4d_header(source, wide)
    occ = coding / "AU_OCC"
    table(
        occ / "F001_T1.csv",
        header,
        bp4d_row(header, 2440, present=[6, 12], unknown=[28]),
        bp4d_row(header, 2441, present=[12]),
        bp4d_row(header, 2442, present=[6, 10]),
        bp4d_row(header, 2443),
    )
    last = "T6" if source == "bp4d+" else "T10"
    table(occ / f"F001_{last}.csv", header, bp4d_row(header, "0001", present=[1]))
    table(occ / "M002_T1.csv", header, bp4d_row(header, 7, present=[4]))
    intensities = coding / "AU_INT"
    write(intensities / "AU06" / "F001_T1_AU06.csv", "2440,2", "2441,0", "2442,9", "2443,0")
    write(intensities / "AU12" / "F001_T1_AU12.csv", "2440,5", "2441,0", "2442,3", "2443,0")
    return root


# --- DISFA, DISFA+ ---------------------------------------------------------------------------------------------------


def disfa(root, frames=3, subjects=("SN001", "SN002"), skip=()):
    """Frame f has 12 at level f - 1, and 4 at 9 in frame 1; all else is 0. ``skip``: units without a file."""
    for subject in subjects:
        for code in units.labelled_in("disfa"):
            if code in skip:
                continue
            levels = [f - 1 if code == "12" else 9 if (code, f) == ("4", 1) else 0 for f in range(1, frames + 1)]
            lines = [f"{f},{level}" for f, level in enumerate(levels, 1)]
            write(root / "ActionUnit_Labels" / subject / f"{subject}_au{code}.txt", *lines)
    return root


def disfa_plus(root):
    """Two trials of one subject; in the first, frame 010.jpg has 1 at level 3."""
    for trial in ("A1_AU1_TrailNo_1", "A1_AU1_TrailNo_2"):
        for code in units.labelled_in("disfa+"):
            level = 3 if (trial[-1], code) == ("1", "1") else 0
            path = root / "Labels" / "SN001" / trial / f"AU{code}.txt"
            write(path, "000.jpg  0", "009.jpg  0", f"010.jpg  {level}")
    return root


# --- CK+, UNBC -------------------------------------------------------------------------------------------------------


def facs_line(code, intensity, *more):
    return "   ".join(["", *(f"{number:.7e}" for number in (code, intensity, *more))])


def ck(root):
    write(root / "FACS/S005/001/S005_001_00000011_facs.txt", facs_line(9, 5), facs_line(17, 0))
    write(root / "FACS/S010/002/S010_002_00000014_facs.txt", facs_line(25, 3), facs_line(43, 0))
    return root


def unbc(root):
    folder = root / "Frame_Labels"
    sequence = "042-ll042/ll042t1aaaff"
    write(folder / "FACS" / sequence / "ll042t1aaaff001_facs.txt")
    write(
        folder / "FACS" / sequence / "ll042t1aaaff002_facs.txt",
        facs_line(6, 3, 0, 0),
        facs_line(43, 1, 0, 0),
        facs_line(12, 0, 0, 0),
    )
    write(folder / "PSPI" / sequence / "ll042t1aaaff001_facs.txt", "   0.0000000e+00")
    write(folder / "PSPI" / sequence / "ll042t1aaaff002_facs.txt", "   4.0000000e+00")
    return root


# --- detectors -------------------------------------------------------------------------------------------------------


def openface_names(faces=True, landmarks=68):
    """Header of OpenFace 2: about 700 columns."""
    names = ["frame", *(["face_id"] if faces else []), "timestamp", "confidence", "success"]
    names += [f"{axis}_{i}" for axis in ("eye_lmk_x", "eye_lmk_y", "x", "y", "X", "Y", "Z") for i in range(landmarks)]
    names += [f"AU{int(code):02d}_r" for code in units.labelled_in("openface-r")]
    return names + [f"AU{int(code):02d}_c" for code in units.labelled_in("openface-c")]


def openface_row(names, frame, face=0, success=1, confidence=0.98, **units_):
    """A row of OpenFace 2; ``AU12_r=2.3`` sets a cell, all other units are 0."""
    first = {"frame": frame, "face_id": face, "timestamp": 0.033, "confidence": confidence, "success": success}
    return [first.get(name, units_.get(name, "0.00" if name.startswith("AU") else "123.4")) for name in names]


def openface(path, *rows, separator=", ", faces=True, landmarks=68, **options):
    """Rows as keyword dictionaries of `openface_row`."""
    names = openface_names(faces, landmarks)
    return table(path, names, *(openface_row(names, **row) for row in rows), separator=separator, **options)


def pyfeat_names():
    names = ["frame", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    names += [f"{axis}_{i}" for axis in "xy" for i in range(68)]
    return names + [f"AU{int(code):02d}" for code in units.labelled_in("pyfeat")] + ["anger", "neutral", "input"]


def pyfeat(path, *rows):
    """Rows as dictionaries by column name; what is missing is 0.1."""
    names = pyfeat_names()
    return table(path, names, *([row.get(name, 0.1) for name in names] for row in rows))


def imotions(path, *rows, codes=("1", "12"), end="\r\n"):
    """Rows: (sensor, frame number, number of faces, evidence of each unit)."""
    names = ["StudyName", "Name", "StimulusName", "EventSource", "FrameNo", "NoOfFaces"]
    names += [f"FaceRect {side}" for side in ("X", "Y", "Width", "Height")] + ["Joy Evidence", "Joy Intensity"]
    names += [f"AU{code} Evidence" for code in codes] + ["LiveMarker"]
    lines = ["#Study : One", "#Version : 5.7", "\t" * len(names), "\t".join(names)]
    for sensor, frame, faces, *evidence in rows:
        box = ["1", "2", "30", "40"] if faces == 1 else [""] * 4
        cells = ["One", "Nate", "film", sensor, frame, faces, *box, "0.5", "0", *evidence, ""]
        lines.append("\t".join(map(str, cells)))
    return write(path, *lines, end=end)


def libreface(path, *rows):
    """Rows as dictionaries by column name; what is missing is 0."""
    names = ["frame_idx", "frame_time_in_ms", "pitch"]
    names += [f"au_{code}" for code in units.labelled_in("libreface-detection")]
    names += [f"au_{code}_intensity" for code in units.labelled_in("libreface-intensity")]
    return table(path, names, *([row.get(name, 0) for name in names] for row in rows))
