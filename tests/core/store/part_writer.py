"""Writes one part of a version, as a worker process would: python part_writer.py JSON; prints the part as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import numpy as np

from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store import CoefficientBlock, open_store


def main() -> None:
    work = json.loads(sys.argv[1])
    ids = [b"%d-%d" % (work["part"], i) for i in range(work["entities"])]
    block = CoefficientBlock(
        ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
        ids_ptr=np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64),
        coefficient_ptr=np.arange(len(ids) + 1),
        indices=np.full(len(ids), 3, np.int32),
        coefficients=np.linspace(work["part"], work["part"] + 1, len(ids)),
        variances=None,
    )
    with open_store(work["url"]) as store:
        part = store.write_part(
            PublishTicket(**work["ticket"]),
            "per_user",
            work["part"],
            [block],
            schema=work["schema"],
            spill=work["spill"],
        )
    print(json.dumps(asdict(part)))


if __name__ == "__main__":
    main()
