"""From rows to a model: what is learned before training, training, training once more on all rows."""

from __future__ import annotations

from gdmix_core.fixed_effects.deep_text.devices import start_tensorflow
from gdmix_core.fixed_effects.deep_text.learning import learn_inputs
from gdmix_core.fixed_effects.deep_text.model import DeepTextModel
from gdmix_core.fixed_effects.deep_text.options import DeepTextOptions
from gdmix_core.fixed_effects.deep_text.pretrained import read_pretrained
from gdmix_core.fixed_effects.deep_text.training import Training
from gdmix_core.fixed_effects.plugin import FitContext, FitData


def fit(options: DeepTextOptions, data: FitData, context: FitContext) -> DeepTextModel:
    """Fit the effect; in a gang, this member's part of it.

    Raises:
        DataError: the rows do not fit, or training diverged.
        Unavailable: another member of the gang is gone.
    """
    inputs, labels = learn_inputs(options, data.train, context.task)
    strategy = start_tensorflow(context.threads, context.gang)
    pretrained = read_pretrained(inputs)
    if pretrained.word_vectors is not None:
        found, wanted = len(pretrained.word_vectors.codes), pretrained.word_vectors.wanted
        context.notice(
            f"{options.word_embedding.file} has vectors of {found:,} of the vocabulary's {wanted:,} words"
        )
    search = Training("search", inputs, labels, data, context, strategy, pretrained, options.early_stopping)
    trained = search.run()
    facts: dict[str, float | str] = {"steps": trained.steps, "best step": trained.step}
    facts |= {f"early stopping {name}": value for name, value in trained.metrics.items()}
    if options.early_stopping is not None and options.early_stopping.refit:
        epochs = trained.step / search.epoch_steps
        again = Training(
            "refit", inputs, labels, data, context, strategy, pretrained, None, stop_after=epochs
        )
        trained = again.run()
        facts["refit steps"] = trained.steps
    facts["weights"] = sum(weight.size for weight in trained.weights)
    return DeepTextModel.of_weights(inputs, trained.weights, facts)
