"""Data to try attributions on: digits, MNIST, simulated regulatory DNA, and your own sequences."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_SHA256 = {  # of the compressed files
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_NO_INTERVAL = re.compile(r"^(#|track\b|browser\b).*$", re.MULTILINE)  # of a BED file's lines
_UNSIGNED_BYTES = 8  # IDX's code for the type of MNIST's numbers
_INK = 16  # of scikit-learn's digits, at most

BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3], np.float32)
"""How often A, C, G, T are in simulated DNA: the reference at every position."""

_INSTANCES = 3  # of each motif in a sequence, at most
_SURE, _LIKELY = 0.97, 0.7  # of a motif's core, of its flanks


class Images(NamedTuple):
    """Images (n, height, width, 1), float32 from 0 (blank) to 1 (ink), and labels (n,), int32."""

    images: np.ndarray
    labels: np.ndarray


class Simulated(NamedTuple):
    """Simulated sequences with what was planted in them.

    * `sequences` (n, length, 4), float32, one-hot in the order A, C, G, T;
    * `labels` (n, 3), float32: both motifs, TAL1, GATA1;
    * `planted` (n, length, 2), bool: whether a base is of a TAL1, of a GATA1 instance;
    * `starts` (n, 2, 3), int32: the instances' first positions in rising order, by motif (TAL1,
      GATA1); -1 behind the last.
    """

    sequences: np.ndarray
    labels: np.ndarray
    planted: np.ndarray
    starts: np.ndarray


class Named(NamedTuple):
    """Sequences as text, cases as in the file, and their names."""

    names: list[str]
    sequences: list[str]


def digits() -> Images:
    """Handwritten digits of 8 × 8 pixels, which scikit-learn brings along: nothing is downloaded.

    Returns:
      1,797 images (1797, 8, 8, 1), 0 (blank) to 1, and their labels, 0 to 9.

    Example:
      >>> import jaxplain as jxp
      >>> images, labels = jxp.datasets.digits()
      >>> images.shape, labels[:5]
      ((1797, 8, 8, 1), array([0, 1, 2, 3, 4], dtype=int32))

    Source: Alpaydin & Kaynak, "Optical recognition of handwritten digits", UCI 1998 (its test set).
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Images((images / _INK).reshape(-1, 8, 8, 1).astype(np.float32), labels.astype(np.int32))


def mnist(path: str | os.PathLike[str] | None = None, *, split: str = "train") -> Images:
    """MNIST's handwritten digits of 28 × 28 pixels, from IDX files.

    They are looked for in `path`, else in the folder that the environment variable JAXPLAIN_DATA
    names, else in the user's cache. Where they are not in one of the latter two they are downloaded
    there once, by pooch: checksums are compared, and a file is whole or not there.

    Args:
      path: a folder with the IDX files (train-images-idx3-ubyte ...), as they are or with .gz.
      split: `"train"`, 60,000 images, or `"test"`, 10,000.

    Returns:
      Images (n, 28, 28, 1), 0 (blank) to 1 (pixel / 255), and their labels, 0 to 9.

    Raises:
      FileNotFoundError: a file is not in `path`.
      ModuleNotFoundError: it is to be downloaded, and pooch is not installed:
        `pip install "jaxplain[demo]"`.
      ConnectionError: a file could not be downloaded; the message names what to do offline.
      ValueError: a file is broken or truncated, or is not what its name says; an unknown split.

    Example:
      >>> import jaxplain as jxp
      >>> images, labels = jxp.datasets.mnist(split="test")  # doctest: +SKIP
      >>> images.shape  # doctest: +SKIP
      (10000, 28, 28, 1)

    Source: LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86 (1998) 2278-2324.
    """
    if split not in _IMAGES:
        raise ValueError(f"split must be one of {sorted(_IMAGES)}, and is {split!r}")
    pixels = _idx(_mnist_file(_IMAGES[split], path), ndim=3)
    classes = _idx(_mnist_file(_LABELS[split], path), ndim=1)
    if len(pixels) != len(classes):
        raise ValueError(f"MNIST's files disagree: {len(pixels)} images, {len(classes)} labels")
    return Images(pixels[..., None].astype(np.float32) / 255, classes.astype(np.int32))


def _mnist_file(name: str, path: str | os.PathLike[str] | None) -> Path:
    folder = Path(path or os.environ.get("JAXPLAIN_DATA") or _cache())
    for there in (folder / name, folder / f"{name}.gz"):
        if there.exists():
            return there
    if path is not None:
        raise FileNotFoundError(
            f"no {name} or {name}.gz in {folder}; mnist() without a path downloads it"
        )
    from jaxplain.datasets._download import download  # it imports much

    try:
        urls = [f"{mirror}{name}.gz" for mirror in _MIRRORS]
        return download(urls, folder / f"{name}.gz", _SHA256[name])
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}\nOffline, put MNIST's IDX files into a folder and give it as "
            "mnist(path) or in the environment variable JAXPLAIN_DATA; or take "
            "jaxplain.datasets.digits(), which needs no download."
        ) from error


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxplain"


def _idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file's array of bytes: two zeros, type, rank, the sizes big-endian, the numbers."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken(path, f"its compression breaks off ({error})") from None
    header = 4 + 4 * ndim
    if len(data) < header or data[:4] != bytes((0, 0, _UNSIGNED_BYTES, ndim)):
        raise _broken(path, f"it does not begin like an IDX file of {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    if len(data) != header + math.prod(shape):
        expected = header + math.prod(shape)
        raise _broken(path, f"of its {expected} bytes, for {shape} numbers, it has {len(data)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is broken: {reason}; delete it, and get it again")


def _motif(consensus: str) -> np.ndarray:
    """A position weight matrix (width, 4): a capital is nearly sure, a small letter likely."""
    letters = np.array(["ACGT".index(letter.upper()) for letter in consensus])
    share = np.where([letter.isupper() for letter in consensus], _SURE, _LIKELY)[:, None]
    return np.where(np.arange(4) == letters[:, None], share, (1 - share) / 3)


MOTIFS = {"TAL1": _motif("aaCAGATGgt"), "GATA1": _motif("aGATAAGg")}
"""The simulation's motif models, each base's probability (width, 4), from the known consensus."""


def tal_gata(seed: int, n: int, length: int = 200) -> Simulated:
    """Simulated regulatory DNA: instances of the TAL1 and GATA1 motifs in a random background.

    A sequence has TAL1 with probability ½ and GATA1 with probability ½, each, where it is there, in
    one, two or three instances (equally likely). They are drawn base by base from `MOTIFS`, on the
    given strand, and lie anywhere without overlap: all placements are equally likely. Every other
    base is drawn from `BACKGROUND`.

    Args:
      seed: the same seed gives the same sequences.
      n: how many, ≥ 1.
      length: of a sequence, ≥ 54 bases, the room that three instances of both take.

    Returns:
      `Simulated`: sequences (n, length, 4), labels (n, 3), planted (n, length, 2) and starts
      (n, 2, 3). (The paper's own files have the last two labels in the other order.)

    Raises:
      ValueError: n < 1, or a length that is too short.

    Example:
      >>> import jaxplain as jxp
      >>> data = jxp.datasets.tal_gata(0, 1000)
      >>> data.sequences.shape, data.labels[:2]
      ((1000, 200, 4), array([[0., 0., 0.],
             [1., 1., 1.]], dtype=float32))

    Source: Shrikumar, Greenside & Kundaje, arXiv 1704.02685, section 4.2; motifs: Kheradpour &
    Kellis, Nucleic Acids Research 42 (2014) 2976-2987.
    """
    widths = np.array([len(motif) for motif in MOTIFS.values()])
    room = int(_INSTANCES * widths.sum())
    if n < 1 or length < room:
        raise ValueError(f"n={n} must be at least 1, and length={length} at least {room}")
    rng = np.random.default_rng(seed)
    bases = rng.choice(4, (n, length), p=BACKGROUND / BACKGROUND.sum(dtype=float))
    counts = rng.integers(1, _INSTANCES + 1, (n, 2)) * (rng.random((n, 2)) < 0.5)
    starts = _places(rng, counts, widths, length)
    planted = np.zeros((n, length, 2), bool)
    for which, motif in enumerate(MOTIFS.values()):
        rows, instances = np.nonzero(starts[:, which] >= 0)
        drawn = rng.random((len(rows), len(motif), 1)) > motif.cumsum(1)[:, :-1]
        at = (rows[:, None], starts[rows, which, instances][:, None] + np.arange(len(motif)))
        bases[at] = drawn.sum(-1)
        planted[(*at, which)] = True
    labels = np.column_stack([(counts > 0).all(1), counts > 0]).astype(np.float32)
    return Simulated(np.eye(4, dtype=np.float32)[bases], labels, planted, starts)


def _places(
    rng: np.random.Generator, counts: np.ndarray, widths: np.ndarray, length: int
) -> np.ndarray:
    """Starts (n, 2, 3) of `counts` (n, 2) instances, uniform over all that do not overlap.

    With each instance shrunk to a single base, k of them take any k of the bases left.
    """
    n, kinds = counts.shape
    total = counts.sum(1, keepdims=True)
    left = length - (counts @ widths)[:, None] + total
    order = rng.random((n, length))
    order[np.arange(length) >= left] = np.inf
    slots = np.argsort(order, axis=1)[:, : kinds * _INSTANCES]  # in random order
    number = np.arange(kinds * _INSTANCES)
    kind = (number >= counts[:, :1]).astype(int)
    slots = np.where(number < total, slots, length)  # the rest stays behind
    by_place = np.argsort(slots, axis=1, kind="stable")
    slots, kind = (np.take_along_axis(a, by_place, axis=1) for a in (slots, kind))
    before = np.cumsum(widths[kind] - 1, axis=1) - (widths[kind] - 1)
    starts = np.where(number < total, slots + before, -1)
    own = [np.where(kind == which, starts, -1) for which in range(kinds)]
    first = [np.argsort(s < 0, axis=1, kind="stable")[:, :_INSTANCES] for s in own]
    chosen = [np.take_along_axis(s, f, axis=1) for s, f in zip(own, first, strict=True)]
    return np.stack(chosen, axis=1).astype(np.int32)


def fasta(path: str | os.PathLike[str]) -> Named:
    r"""All sequences of a FASTA file.

    Args:
      path: the file. An index, path + ".fai", is written beside it, as by samtools.

    Returns:
      Names (up to the first space) and sequences, as text; `jaxplain.genomics.one_hot` makes
      arrays of them and says how lower case, N and other letters are treated.

    Raises:
      ModuleNotFoundError: pyfaidx is not installed.
      ValueError: not a FASTA file, no sequence in it, two of one name, lines of unequal length.
      pyfaidx.FastaNotFoundError: no such file.

    Example:
      >>> import pathlib, tempfile, jaxplain as jxp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.fa")
      ...     _ = path.write_text(">first\nACGT\nAA\n>second\nacgtn\n")
      ...     jxp.datasets.fasta(path)
      Named(names=['first', 'second'], sequences=['ACGTAA', 'acgtn'])
    """
    with _open_fasta(path) as file:
        names = list(file.keys())
        return Named(names, [str(file[name]) for name in names])


def bed(
    path: str | os.PathLike[str], genome: str | os.PathLike[str], *, length: int | None = None
) -> Named:
    r"""The sequences of a BED file's intervals.

    Args:
      path: the BED file: chromosome, start (from 0), end (exclusive), and where they are there
        name, score, strand: an interval on "-" is read as its reverse complement.
      genome: a FASTA file of the chromosomes, as in `fasta`.
      length: read so many bases about an interval's middle instead, all sequences alike.

    Returns:
      Names (the fourth column, else "chr1:10-20") and sequences, as text.

    Raises:
      ModuleNotFoundError: bioframe or pyfaidx is not installed: `pip install "jaxplain[genomics]"`.
      ValueError: a line that is no interval, an unknown chromosome, or bases beyond its ends, with
        the line's number; no interval in it; as `fasta`.
      pyfaidx.FastaNotFoundError: no such genome.

    Example:
      >>> import pathlib, tempfile, jaxplain as jxp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     genome, peaks = pathlib.Path(folder, "g.fa"), pathlib.Path(folder, "p.bed")
      ...     _ = genome.write_text(">chr1\nAACCGGTT\n")
      ...     _ = peaks.write_text("chr1\t1\t4\nchr1\t1\t4\tpeak\t0\t-\n")
      ...     jxp.datasets.bed(peaks, genome)
      Named(names=['chr1:1-4', 'peak'], sequences=['ACC', 'GGT'])
    """
    import bioframe

    # Lines without an interval are kept, empty, for the others' numbers.
    text = _NO_INTERVAL.sub("", Path(path).read_text(encoding="utf-8"))
    table = bioframe.read_table(
        io.StringIO(text), schema="bed12", sep=r"\s+", dtype=str, keep_default_na=False,
        skip_blank_lines=False, quoting=csv.QUOTE_NONE,
    )  # fmt: skip
    found = Named([], [])
    with _open_fasta(genome) as file:
        for number, fields in enumerate(table.fillna("").itertuples(index=False), 1):
            if not fields.chrom:
                continue
            try:
                name, sequence = _sequence_of(fields, file, length)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            found.names.append(name)
            found.sequences.append(sequence)
    if not found.names:
        raise ValueError(f"{path} has no interval")
    return found


def _sequence_of(fields: Any, genome: Any, length: int | None) -> tuple[str, str]:
    """The name and the sequence of a BED line's fields."""
    if not (fields.start.isdecimal() and fields.end.isdecimal()):
        line = " ".join(filter(None, fields))
        raise ValueError(f"{line!r} is not chromosome, start and end")
    start, end = int(fields.start), int(fields.end)
    if fields.chrom not in genome:
        raise ValueError(
            f"no chromosome {fields.chrom!r} in the genome, which has {[*genome.keys()]}"
        )
    name = fields.name or f"{fields.chrom}:{start}-{end}"
    if length is not None:
        start = (start + end) // 2 - length // 2
        end = start + length
    whole = len(genome[fields.chrom])
    if not 0 <= start < end <= whole:
        raise ValueError(f"{start}-{end} is not inside {fields.chrom}, which has {whole} bases")
    sequence = genome[fields.chrom][start:end]
    return name, str(-sequence if fields.strand == "-" else sequence)


def _open_fasta(path: str | os.PathLike[str]) -> Any:
    import pyfaidx  # type: ignore  # it has no stubs

    try:
        return pyfaidx.Fasta(os.fspath(path))
    except pyfaidx.FastaIndexingError as error:
        raise ValueError(str(error)) from None
