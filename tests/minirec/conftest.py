"""The tiny demo model, once for each module that asks for it."""

import pytest
from helpers.tiny import CONFIG, built

from minirec.model.recommender import Encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return built(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.load(folder, CONFIG, category="demo")
