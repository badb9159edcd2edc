"""Motifs of a collection: read from MEME's format, and found in stretches of sequences."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxplain._types import Tree
from jaxplain.genomics.calling import Seqlets
from jaxplain.genomics.onehot import BASES, check_shape, read


class Matches(NamedTuple):
    """The motifs that stretches are most like: arrays (stretches, nearest), the best first.

    * `name` of the motif;
    * `p_value`, of so good a match of a stretch among the motifs' columns, on both strands;
    * `strand`, "+", or "-" where the motif's reverse complement matches;
    * `start`, where the motif begins in the sequence (at its leftmost base, on either strand); it
      may lie before the stretch.
    """

    name: np.ndarray
    p_value: np.ndarray
    strand: np.ndarray
    start: np.ndarray


def read_meme(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    r"""The motifs of a file in MEME's minimal format, as JASPAR and HOCOMOCO offer them.

    Args:
      path: the file.

    Returns:
      {name: probabilities (width, 4)}, columns in the order A, C, G, T; the name is the whole of
      the MOTIF line, such as "MA0035.4 GATA1". `marginalize`, `spacing` and `annotate` take them.

    Raises:
      ModuleNotFoundError: memelite is not installed: `pip install "jaxplain[motifs]"`.
      FileNotFoundError: no such file.
      ValueError: no motif in it, or one whose rows are not probabilities of four bases.

    Example:
      >>> import pathlib, tempfile, jaxplain as jxp
      >>> text = "MOTIF X\nletter-probability matrix: w= 2\n0 0 1 0\n.5 .5 0 0\n"
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "motifs.meme")
      ...     _ = path.write_text(text)
      ...     jxp.genomics.read_meme(path)["X"]
      array([[0. , 0. , 1. , 0. ],
             [0.5, 0.5, 0. , 0. ]])

    Source: Bailey et al., "The MEME Suite", Nucleic Acids Research 43 (2015) W39-W49.
    """
    from memelite.io import read_meme as columns

    try:
        motifs = {name: motif.T for name, motif in columns(os.fspath(path)).items()}
    except (ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is not in MEME's format, for DNA: {error}") from error
    if not motifs:
        raise ValueError(f"{path} has no motif")
    for name, motif in motifs.items():
        if (motif < 0).any() or not np.allclose(motif.sum(-1), 1, atol=0.01):  # rounded in files
            raise ValueError(f"{path}: the rows of {name!r} are not probabilities")
    return motifs


def consensus(motif: Tree) -> str:
    """The likeliest base at each position of a motif.

    Args:
      motif: probabilities (width, 4).

    Returns:
      A string of A, C, G, T; of bases as likely the first.

    Raises:
      ValueError: another shape.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.genomics.consensus(jxp.datasets.MOTIFS["GATA1"])
      'AGATAAGG'
    """
    motif = np.asarray(motif)
    check_shape(motif, (2,))
    return "".join(np.array([*BASES])[motif.argmax(-1)])


def annotate(found: Seqlets, xs: Any, motifs: Mapping[str, Any], *, nearest: int = 1) -> Matches:
    """Which motifs of a collection seqlets are like, by TOMTOM.

    The motifs' columns are the null distribution: with fewer than 25 motifs memelite warns that
    p-values depend on which they are, while the order of the matches still says something. The
    first call compiles for half a minute, once for an installation.

    Args:
      found: what `seqlets` returned. A flank of a few bases makes room for a motif.
      xs: the sequences that they are in, (n, length, 4) or n strings.
      motifs: {name: probabilities (width, 4)}, as `read_meme` returns.
      nearest: how many motifs are named for each seqlet.

    Returns:
      `Matches`, arrays (seqlets, nearest) in the order of `found`.

    Raises:
      ModuleNotFoundError: memelite is not installed: `pip install "jaxplain[motifs]"`.
      ValueError: shapes that don't fit; fewer motifs than `nearest`, or `nearest` < 1.

    Example:
      >>> import jaxplain as jxp
      >>> found = jxp.genomics.seqlets(contributions, flank=3)  # doctest: +SKIP
      >>> motifs = jxp.genomics.read_meme("jaspar.meme")  # doctest: +SKIP
      >>> jxp.genomics.annotate(found, xs, motifs).name  # doctest: +SKIP
      array([['MA0035.4 GATA1']], dtype='<U14')

    Source: Gupta, Stamatoyannopoulos, Bailey & Noble, "Quantifying similarity between motifs",
    Genome Biology 8 (2007) R24.
    """
    from memelite import tomtom

    xs = np.asarray(read(xs), float)
    check_shape(xs, (3,))
    if not 1 <= nearest <= len(motifs):
        raise ValueError(f"nearest={nearest} of {len(motifs)} motifs cannot be named")
    for motif in motifs.values():
        check_shape(np.asarray(motif), (2,))
    if not len(found.start):
        nothing = np.zeros((0, nearest))
        return Matches(nothing.astype(str), nothing, nothing.astype(str), nothing.astype(int))
    if found.example.max() >= len(xs) or found.end.max() > xs.shape[1]:
        raise ValueError(f"seqlets reach beyond xs {xs.shape}: they are of other sequences")
    stretches = [xs[e, a:b].T for e, a, b, _ in zip(*found, strict=True)]
    names = np.array([*motifs])
    columns = [np.asarray(motif, float).T for motif in motifs.values()]
    p_value, _, offset, _, strand, which = tomtom(stretches, columns, n_nearest=nearest)
    return Matches(
        names[which.astype(int)],
        p_value,
        np.where(strand == 1, "-", "+"),
        found.start[:, None] - offset.astype(int),
    )
