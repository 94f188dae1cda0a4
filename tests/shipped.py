"""The files that we ship, for tests."""

from pathlib import Path

from segtune.config.yaml_io import read_yaml

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = [path for path in FILES if "space" in read_yaml(path)[0]]
CONFIGS = [path for path in FILES if path not in STUDIES]
