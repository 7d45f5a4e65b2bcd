# SPDX-License-Identifier: Apache-2.0
"""What several tests look for in a reading."""

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.reader import Reading


def traffic(reading: Reading) -> npt.NDArray[np.uint64]:
    """Packets and bytes of each row of a reading: (rows, from or to, class, packets or bytes)."""
    ways = [np.stack([reading.counters[way][field] for field in ("packets", "bytes")], -1) for way in ("from", "to")]
    return np.stack(ways, 1)
