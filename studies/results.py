"""The files of a run: `figure.png`, `result.nc`, `summary.json`, each written whole or not at all."""

import datetime
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..problems import versions, write_netcdf


class Folder:
    """A folder for results, made and tried before any work.

    **Raises:** `OSError` when `path` is not, and cannot become, a folder one may write to.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def dataset(self, dataset, **attributes) -> None:
        """Writes `result.nc` with the given attributes and the versions."""
        for name, value in (attributes | {"versions": versions()}).items():
            dataset.attrs[name] = value if isinstance(value, str) else json.dumps(plain(value))
        write_netcdf(dataset, self.path / "result.nc")

    def summary(self, content: dict[str, Any]) -> None:
        """Writes `summary.json` with the versions and the date added."""
        content = content | {"versions": versions(), "date": datetime.date.today().isoformat()}
        text = json.dumps(plain(content), indent=1, allow_nan=False)
        self._replace("summary.json", lambda file: file.write_text(text + "\n"))

    def picture(self, draw, name: str = "figure.png") -> None:
        """Writes a picture; `draw` is called with the file's path."""
        self._replace(name, draw)

    def _replace(self, name: str, write) -> None:
        temporary = self.path / f".{os.getpid()}.{name}"
        try:
            write(temporary)
            os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Numbers, arrays and containers as plain JSON data; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
