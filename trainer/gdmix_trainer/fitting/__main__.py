"""Do one piece of a plug-in's work, see `process`."""

from __future__ import annotations

from gdmix_trainer.fitting.process import main

if __name__ == "__main__":
    main()
