"""Parameters, operations and accuracy of a perceptron and of a small CNN."""

from convscope.experiments.equal_cost import layer_costs
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import make_variant, run_trials
from convscope.experiments.variants import compare_variants, make_finding, variant_panels
from convscope.progress import OnProgress
from convscope.results.memory import Budget
from convscope.results.panels import Table, table_of


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Count the parameters of the networks of N1 and N2, layer by layer, and compare their accuracies."""
    variants = [make_variant(name, model=name) for name in ("mlp", "cnn-small")]
    trials = run_trials(variants, setting, on_progress)
    comparison = compare_variants(trials)
    mlp, cnn = budgets = [layer_costs(variant.config) for variant in variants]
    fewer, more = mlp.num_params / cnn.num_params, cnn.macs / mlp.macs
    memory = cnn.memory.training_peak_bytes / mlp.memory.training_peak_bytes
    layers = {
        budget.model: [{"name": layer.name, "num_params": layer.num_params} for layer in budget.layers]
        for budget in budgets
    }
    return make_finding(
        trials,
        comparison,
        first=f"the CNN has {fewer:.1f} times fewer parameters ({cnn.num_params:,} against {mlp.num_params:,}), needs "
        f"{more:.1f} times the operations and {memory:.1f} times the memory in a training step",
        method="Parameters, operations and memory are counted on the networks themselves.",
        panels=(*variant_panels(trials, comparison), *map(_layer_table, budgets)),
        numbers={
            "times_fewer_parameters": fewer,
            "times_more_macs": more,
            "times_more_memory": memory,
            "layers": layers,
        },
    )


def _layer_table(budget: Budget) -> Table:
    return table_of(
        f"{budget.model}: parameters, operations for one image, memory for a batch of {budget.batch_size}",
        [layer for layer in budget.layers if layer.num_params or layer.saved_bytes],
        {
            "layer": lambda layer: layer.kind,
            "output": lambda layer: " × ".join(map(str, layer.output_shape or ())),
            "parameters": lambda layer: layer.arithmetic or "–",
            "MACs": lambda layer: f"{layer.macs:,}",
            "saved for backward, MB": lambda layer: f"{layer.saved_bytes / 1e6:.2f}",
        },
    )


LAB = Lab(
    "Why has a CNN fewer parameters than a perceptron, and what does it pay for that?",
    "A convolution applies its few weights at every place of the image: few parameters, many operations.",
    run,
)
