"""The language benchmark: its tasks' reasons, and its page from the JSON alone."""

import json

import jax
import numpy as np
import pytest

from benchmarks import language, measure


@pytest.mark.parametrize("task", language.TASKS)
def test_what_decides_is_known(task):
    rng = np.random.default_rng(0)
    prompts, answers, decides = language.TASKS[task](rng, 200)
    assert prompts.shape == decides.shape == (200, language.LENGTH)
    assert prompts.max() < language.VOCABULARY
    row = np.arange(200)
    if task != "induction":  # whose answer may be anything but the value of a pair
        assert ((decides == 2).sum(1) == 1).all()
    assert (prompts[row, (decides == 2).argmax(1)] == answers).all()
    assert (decides[:, -1] == 1).all() and not decides[:, 0].any()
    if task == "distractors":  # the same key under the other mark decides nothing
        body, told = prompts[:, 1:13].reshape(-1, 4, 3), decides[:, 1:13].reshape(-1, 4, 3)
        asked = prompts[:, -2:][:, None]
        assert ((body[..., :2] == asked).all(-1) == (told > 0).all(-1)).all()
    if task == "two hops":
        pairs, told = prompts[:, 1:13].reshape(-1, 6, 2), decides[:, 1:13].reshape(-1, 6, 2)
        used = pairs[(told > 0).all(-1)].reshape(-1, 2, 2)
        assert (np.sort(used[:, :, 0], 1) != np.sort(used[:, :, 1], 1)).any(1).all()
        assert (told > 0).all(-1).sum(1).tolist() == [2] * 200


def results(seeds=2):
    scores = lambda seed, i: [0.5 + 0.01 * seed, 0.25, 0.9 if i == 3 else 0.1, 0.3]
    ways = {w: {"signed": scores(0, i), "absolute": scores(1, i)}
            for i, w in enumerate(language.WAYS)}  # fmt: skip
    accuracy = dict.fromkeys(language.TASKS, 1.0) | {"two hops": 0.4}
    cell = {"accuracy": accuracy, "scores": dict.fromkeys(language.TASKS, ways),
            "prediction": dict.fromkeys(language.PREDICTED, 0.5)}  # fmt: skip
    environment = measure.environment(jax.devices()[0])
    return {
        "benchmark": "language", "environment": environment,
        "settings": {"seeds": seeds, "examples": 4, "steps": 10},
        "cells": [{"seed": seed, **cell} for seed in range(seeds)],
    }  # fmt: skip


def test_the_page_says_who_wins_and_what_was_not_learned(tmp_path):
    path = tmp_path / "language.json"
    path.write_text(json.dumps(results()))
    language.write(path)
    page = path.with_suffix(".md").read_text()
    winner = list(language.WAYS)[3]
    assert f"first is the answer's, signed: 0.90 by {winner}\n" in page
    assert "two hops 40.0% (not learned by all, and left out)" in page
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert winner in language.shown(results())


def test_metrics_of_scores_that_know_the_answer():
    decides = np.array([[0, 1, 2, 0, 1]])
    perfect = language.judged(np.array([[0.0, 1, 2, -1, 1]]), decides)
    np.testing.assert_allclose(perfect[0], [1, 1, 1, 1])
    assert language.judged(np.array([[9.0, 1, 2, 0, 1]]), decides)[0, 2] == 0
