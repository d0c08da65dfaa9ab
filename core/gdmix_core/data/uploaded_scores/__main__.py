"""Check one file, see `process`."""

from __future__ import annotations

from gdmix_core.data.uploaded_scores.process import main

if __name__ == "__main__":
    main()
