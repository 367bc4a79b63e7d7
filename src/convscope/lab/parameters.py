"""Parameters and operations of a perceptron and of a small CNN, and what they reach."""

from __future__ import annotations

from convscope.budget.memory import predict_memory
from convscope.lab.equal_cost import INPUT_SHAPE, NUM_CLASSES
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import make_variant, run_trials
from convscope.lab.variants import (
    compare_variants,
    comparison_numbers,
    conclude,
    describe,
    sentence,
    variant_panels,
)
from convscope.models import build_shapes
from convscope.progress import OnProgress
from convscope.results import Budget, Table


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Count the parameters of N1 and N2, layer by layer, and compare what they reach."""
    made = [make_variant("mlp", model="mlp"), make_variant("cnn-small", model="cnn-small")]
    trials = run_trials(made, setting, on_progress)
    comparison = compare_variants(made, trials)
    mlp, cnn = (
        predict_memory(
            build_shapes(variant.config.model, INPUT_SHAPE, NUM_CLASSES),
            INPUT_SHAPE,
            batch_size=variant.config.train.batch_size,
            train=variant.config.train,
            name=variant.name,
        )
        for variant in made
    )
    fewer, more = mlp.num_params / cnn.num_params, cnn.macs / mlp.macs
    memory = cnn.memory.training_peak_bytes / mlp.memory.training_peak_bytes
    return Finding(
        answer=sentence(
            f"the CNN has {fewer:.1f} times fewer parameters ({cnn.num_params:,} against {mlp.num_params:,}), does "
            f"{more:.1f} times the operations and takes {memory:.1f} times the memory in a step of training",
            conclude(comparison),
        ),
        method=f"{describe(made, trials)} Parameters, operations and memory are counted on the networks themselves.",
        panels=(
            *variant_panels(made, trials, comparison)[:3],
            *(_layers(budget) for budget in (mlp, cnn)),
        ),
        numbers=comparison_numbers(comparison)
        | {
            "times_fewer_parameters": fewer,
            "times_more_macs": more,
            "times_more_memory": memory,
            "layers": {
                budget.model: [{"name": layer.name, "num_params": layer.num_params} for layer in budget.layers]
                for budget in (mlp, cnn)
            },
        },
    )


def _layers(budget: Budget) -> Table:
    rows = [
        (
            layer.kind,
            " × ".join(map(str, layer.output_shape or ())),
            layer.arithmetic or "–",
            f"{layer.macs:,}",
            f"{layer.saved_bytes / 1e6:.2f}",
        )
        for layer in budget.layers
        if layer.num_params or layer.saved_bytes
    ]
    title = f"{budget.model}: parameters, operations of a picture, memory for a batch of {budget.batch_size}"
    return Table(title, ("layer", "output", "parameters", "MACs", "kept, MB"), tuple(rows))


LAB = Lab(
    "Why has a CNN fewer parameters than a perceptron, and what does it pay for that?",
    "A convolution uses its few weights at every place of the picture: few parameters, many operations.",
    find,
)
