from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.report.overlays import colours
from slpd_toolkit.report.qupath import feature_collection, write_geojson
from slpd_toolkit.report.scores import SlideScores

if TYPE_CHECKING:
    from pathlib import Path

SLIDE = SlideScores(
    "s1", np.array([[10, 20], [-5, 0]]), np.array([100, 50]), np.array([0.25, 0.75]), slide_size_l0=(1000, 500)
)


def test_squares_are_closed_rings_of_whole_level_0_pixels() -> None:
    features = feature_collection(SLIDE, np.array([0.0, 1.0]), "rank")["features"]
    rings = [feature["geometry"]["coordinates"] for feature in features]
    assert rings == [
        [[[10, 20], [110, 20], [110, 120], [10, 120], [10, 20]]],
        [[[-5, 0], [45, 0], [45, 50], [-5, 50], [-5, 0]]],
    ]
    assert all(isinstance(number, int) for ring in rings for point in ring[0] for number in point)
    assert {feature["geometry"]["type"] for feature in features} == {"Polygon"}


def test_objects_say_what_qupath_reads(tmp_path: Path) -> None:
    """As in QuPath's PathObjectTypeAdapter: objectType, color [r, g, b], named classification, measurements."""
    write_geojson(tmp_path / "s1.geojson", SLIDE, np.array([0.0, 1.0]), "linear")
    found = json.loads((tmp_path / "s1.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    low, high = (feature["properties"] for feature in found["features"])
    assert {feature["type"] for feature in found["features"]} == {"Feature"}
    assert (low["objectType"], low["name"]) == ("tile", "s1 x 10 y 20")
    assert low["measurements"] == {"score": 0.25, "scaled score": 0}
    assert high["measurements"] == {"score": 0.75, "scaled score": 1}
    assert [low["color"], high["color"]] == colours(np.array([0.0, 1.0])).tolist()
    assert (low["classification"]["name"], high["classification"]["name"]) == (
        "scaled score 0.0-0.2",
        "scaled score 0.8-1.0",
    )
    assert len(low["classification"]["color"]) == 3
