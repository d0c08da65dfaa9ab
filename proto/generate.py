"""Generate the Python code of the wire contracts next to their .proto files; --check only compares.

python proto/generate.py [--check]
"""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
PROTOS = sorted(path.relative_to(ROOT) for path in ROOT.glob("gdmix_proto/**/*.proto"))


def generate(target: Path) -> None:
    """Write *_pb2.py, *_pb2.pyi and *_pb2_grpc.py for every contract under `target`."""
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        f"--grpc_python_out={target}",
        *(str(path) for path in PROTOS),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def main() -> None:
    """Generate in place, or compare with what is committed."""
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch))
            made = sorted(path.relative_to(scratch) for path in Path(scratch).rglob("*_pb2*.py*"))
            stale = [
                str(path)
                for path in made
                if not (ROOT / path).exists()
                or not filecmp.cmp(ROOT / path, Path(scratch) / path, shallow=False)
            ]
        if stale:
            raise SystemExit(
                f"generated code is out of date, run python proto/generate.py: {', '.join(stale)}"
            )
        return
    generate(ROOT)


if __name__ == "__main__":
    main()
