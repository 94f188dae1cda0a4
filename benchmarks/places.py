"""Where the files of the project lie that the benchmarks use."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT / "benchmarks" / "data"
SPACE = ROOT / "search_spaces" / "full.yaml"
CONFIG = ROOT / "configs" / "shapes_segformer_b0.yaml"
