"""Data sets: what they hold is what they say, and what is broken is refused in plain words."""

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest

from jaxplain import datasets, genomics
from jaxplain.datasets._download import download

CONTENT = bytes(range(256)) * 1000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


def idx(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Three test images, compressed, and their labels, not."""
    pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx([7, 2, 1]))
    return tmp_path


def test_digits():
    images, labels = datasets.digits()
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    assert np.bincount(labels).min() > 170


@pytest.mark.parametrize("how", ["path", "environment"])
def test_mnist_from_a_folder(folder, how, monkeypatch):
    if how == "environment":
        monkeypatch.setenv("JAXPLAIN_DATA", str(folder))
    images, labels = datasets.mnist(folder if how == "path" else None, split="test")
    assert images.shape == (3, 28, 28, 1) and images.dtype == np.float32
    np.testing.assert_allclose(images[0, 1, :3, 0] * 255, [28, 29, 30], rtol=1e-6)
    assert labels.tolist() == [7, 2, 1] and labels.dtype == np.int32


BROKEN = {
    "truncated": (lambda data: gzip.compress(gzip.decompress(data)[:-5]), "bytes, for .*has"),
    "cut download": (lambda data: data[:-20], "compression breaks off"),
    "not compressed": (lambda data: gzip.decompress(data), "compression breaks off"),
    "a page": (lambda data: gzip.compress(b"<html>"), "does not begin like an IDX file"),
    "other rank": (lambda data: gzip.compress(idx([1, 2])), "does not begin like an IDX file"),
    "fewer": (lambda data: gzip.compress(idx(np.zeros((2, 28, 28)))), "2 images, 3 labels"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_mnist(folder, how):
    path = folder / "t10k-images-idx3-ubyte.gz"
    breaks, words = BROKEN[how]
    path.write_bytes(breaks(path.read_bytes()))
    with pytest.raises(ValueError, match=words):
        datasets.mnist(folder, split="test")


def test_missing_mnist(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        datasets.mnist(folder)
    with pytest.raises(ValueError, match=r"\['test', 'train'\]"):
        datasets.mnist(folder, split="validation")
    monkeypatch.setenv("JAXPLAIN_DATA", str(folder))
    monkeypatch.setattr(datasets, "_MIRRORS", ("http://127.0.0.1:9/",))  # nobody answers there
    with pytest.raises(ConnectionError, match=r"digits\(\)") as error:
        datasets.mnist()
    assert "JAXPLAIN_DATA" in str(error.value) and "127.0.0.1:9" in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte",
    ]


class Server(http.server.BaseHTTPRequestHandler):
    """Gives CONTENT."""

    content = CONTENT
    breaks_off = 0  # bytes it keeps to itself
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) - self.breaks_off])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A server to itself: its handler class and its address."""
    handler = type("Handler", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_a_broken_download_leaves_nothing_and_is_asked_for_again(server, tmp_path):
    handler, url = server
    path = tmp_path / "data" / "file"
    handler.breaks_off = 1000
    with pytest.raises(ConnectionError, match=f"(?s)file could not be downloaded.*{url}.*1000 "):
        download([url], path, CHECKSUM)
    assert not list(path.parent.iterdir())  # a part is not the file
    handler.breaks_off = 0
    assert download([url], path, CHECKSUM).read_bytes() == CONTENT
    assert len(handler.asked) == 2
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    download([url], path, CHECKSUM)  # it is there: nobody is asked
    assert len(handler.asked) == 2


def test_another_file_is_refused_and_the_next_mirror_asked(server, tmp_path):
    _, url = server
    with pytest.raises(ConnectionError, match="hash"):
        download([url], tmp_path / "file", "0" * 64)
    assert not list(tmp_path.iterdir())
    refused = "http://127.0.0.1:9/"
    assert download([refused, url], tmp_path / "file", CHECKSUM).read_bytes() == CONTENT


def test_a_file_that_is_not_what_it_should_be_is_replaced(server, tmp_path):
    _, url = server
    (tmp_path / "file").write_bytes(CONTENT[:-7])
    assert download([url], tmp_path / "file", CHECKSUM).read_bytes() == CONTENT


@pytest.fixture(scope="module")
def simulated():
    return datasets.tal_gata(0, 4000)


def test_simulated_sequences_are_what_they_are_labelled(simulated):
    sequences, labels, planted, starts = simulated
    assert sequences.shape == (4000, 200, 4) and sequences.dtype == np.float32
    assert set(np.unique(sequences)) == {0, 1} and (sequences.sum(-1) == 1).all()
    instances = (starts >= 0).sum(-1)
    np.testing.assert_array_equal(labels[:, 1:], instances > 0)
    np.testing.assert_array_equal(labels[:, 0], labels[:, 1] * labels[:, 2])
    np.testing.assert_allclose(labels.mean(0), [1 / 4, 1 / 2, 1 / 2], atol=0.03)
    shares = np.bincount(instances.ravel()) / instances.size
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.02)
    background = sequences[~planted.any(-1)].mean(0)
    np.testing.assert_allclose(background, datasets.BACKGROUND, atol=0.005)


def test_what_is_planted_is_the_motifs_and_does_not_overlap(simulated):
    sequences, _, planted, starts = simulated
    assert not planted.all(-1).any()
    for which, motif in enumerate(datasets.MOTIFS.values()):
        rows, instances = np.nonzero(starts[:, which] >= 0)
        at = starts[rows, which, instances][:, None] + np.arange(len(motif))
        drawn = sequences[rows[:, None], at]
        np.testing.assert_allclose(drawn.mean(0), motif, atol=0.03)
        assert planted[rows[:, None], at, which].all()
        assert planted[..., which].sum() == len(rows) * len(motif)
        assert at.min() == 0 and at.max() == 199
        spread = np.histogram(at[:, 0], bins=4)[0] / len(rows)
        np.testing.assert_allclose(spread, 1 / 4, atol=0.03)
    filled = np.where(starts < 0, 1000, starts)
    assert (np.diff(filled) >= 0).all()  # in rising order, absent ones behind


def test_simulation_repeats_itself_and_fills_the_least_room(simulated):
    again = datasets.tal_gata(0, 4000)
    assert all(map(np.array_equal, simulated, again))
    assert not np.array_equal(datasets.tal_gata(1, 4000).sequences, again.sequences)
    tight = datasets.tal_gata(0, 500, length=54)
    assert (tight.planted.any(-1).sum(1) == 54).any() and not tight.planted.all(-1).any()
    for n, length in ((0, 200), (1, 53)):
        with pytest.raises(ValueError, match="at least 54"):
            datasets.tal_gata(0, n, length)


@pytest.fixture
def genome(tmp_path):
    pytest.importorskip("pyfaidx")
    path = tmp_path / "genome.fa"
    path.write_text(">chr1 first\nAACCGGTTAC\nacgtnRYA\n>chr2\nTTTTTTTTTT\n")
    return path


def test_fasta(genome):
    names, sequences = datasets.fasta(genome)
    assert names == ["chr1", "chr2"]
    assert sequences == ["AACCGGTTACacgtnRYA", "TTTTTTTTTT"]
    with pytest.raises(ValueError, match=r"10 to 18 bases.*one length"):
        genomics.one_hot(sequences)


def test_bed(genome, tmp_path):
    peaks = tmp_path / "peaks.bed"
    peaks.write_text(
        "track name=peaks\n# a remark\n\nchr1\t1\t4\nchr1 8 18 peak 0 -\nchr2\t0\t10\tall\n"
    )
    names, sequences = datasets.bed(peaks, genome)
    assert names == ["chr1:1-4", "peak", "all"]
    assert sequences == ["ACC", "TRYnacgtGT", "T" * 10]
    ten = 'peak\t0\t-\t1.5\tNA\t-1\t"4'  # a narrowPeak file's other columns
    header = 'track type=narrowPeak description="a b c d e f g h i j k l"'
    peaks.write_text(f"{header}\nchr1\t1\t4\n\n{header}\nchr1\t8\t18\t{ten}\n")
    assert datasets.bed(peaks, genome).sequences == ["ACC", "TRYnacgtGT"]
    peaks.write_text("chr1\t1\t4\nchr1\t8\t18\t.\t0\t-\n")
    assert datasets.bed(peaks, genome, length=4).sequences == ["AACC", "nacg"]


@pytest.mark.parametrize(
    "line, words",
    [
        ("chr1\t5", "is not chromosome, start and end"),
        ("chr1\t-2\t5", "is not chromosome, start and end"),
        ("chr3\t0\t5", r"no chromosome 'chr3' .*\['chr1', 'chr2'\]"),
        ("chr2\t5\t11", "5-11 is not inside chr2, which has 10 bases"),
        ("chr2\t5\t5", "5-5 is not inside"),
    ],
)
def test_broken_bed(genome, tmp_path, line, words):
    peaks = tmp_path / "peaks.bed"
    peaks.write_text(f"chr1\t0\t5\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2: .*{words}"):
        datasets.bed(peaks, genome)


def test_nothing_in_the_file(genome, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(ValueError, match="no interval"):
        datasets.bed(empty, genome)


BROKEN_FASTA = {
    "empty": ("", "does not contain a valid sequence"),
    "no header": ("ACGT\n", "Unexpected text before the first"),
    "ragged": (">a\nACGT\nAC\nACGT\n", "not consistent.*line 3"),
    "twice": (">a\nAC\n>a\nGT\n", 'Duplicate key "a"'),
}


@pytest.mark.parametrize("how", BROKEN_FASTA)
def test_broken_fasta(tmp_path, how):
    pyfaidx = pytest.importorskip("pyfaidx")
    path = tmp_path / "broken.fa"
    with pytest.raises(pyfaidx.FastaNotFoundError, match=r"broken\.fa"):
        datasets.fasta(path)
    text, words = BROKEN_FASTA[how]
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        datasets.fasta(path)
