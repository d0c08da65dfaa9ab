"""The benchmark's model as a custom runtime of MLServer: numpy arrays in memory, the request as OIP tensors.

Runs inside MLServer's own environment, so it imports nothing of this project.
"""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class BenchmarkRuntime(MLModel):
    """Scores the candidates of one user."""

    async def load(self) -> bool:
        """Read the coefficients."""
        assert self.settings.parameters is not None
        arrays = np.load(str(self.settings.parameters.uri))
        self._fixed = arrays["fixed"]
        self._users = {one: number for number, one in enumerate(arrays["user_ids"].tolist())}
        self._items = {one: number for number, one in enumerate(arrays["item_ids"].tolist())}
        self._user_indices, self._user_values = arrays["user_indices"], arrays["user_values"]
        self._item_indices, self._item_values = arrays["item_indices"], arrays["item_values"]
        self._user_size = 1 + int(arrays["user_features"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return scores and probabilities, float64[candidates] each."""
        given = {one.name: one.data.root for one in payload.inputs}
        shapes = {one.name: one.shape for one in payload.inputs}
        user = np.zeros(self._user_size)
        user[0] = 1.0
        user[1 + np.array(given["user_indices"])] = given["user_values"]
        own = np.zeros(len(self._fixed) - self._user_size + 1)
        row = self._users.get(given["user_id"][0])
        if row is not None:
            own[self._user_indices[row]] = self._user_values[row]
        shape = shapes["item_indices"]
        indices = np.array(given["item_indices"], np.int32).reshape(shape)
        values = np.array(given["item_values"]).reshape(shape)
        of_items = self._fixed[self._user_size :] + own[1:]
        scores = (of_items[indices] * values).sum(axis=1)
        scores += self._fixed[: self._user_size] @ user + own[0]
        rows = np.array([self._items.get(one, -1) for one in given["item_id"]])
        known = rows >= 0
        rows = rows[known]
        scores[known] += (self._item_values[rows] * user[self._item_indices[rows]]).sum(axis=1)
        predictions = 1.0 / (1.0 + np.exp(-scores))
        return InferenceResponse(
            model_name=self.name,
            id=payload.id,
            outputs=[
                ResponseOutput.construct(
                    name=name,
                    shape=[len(numbers)],
                    datatype="FP64",
                    data=numbers.tolist(),
                    parameters=None,
                )
                for name, numbers in (("scores", scores), ("predictions", predictions))
            ],
        )
