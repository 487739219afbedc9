import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Return a function that writes rows, or a text as it is, to a file whose name tells the format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, str):
            path.write_text(rows)
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
