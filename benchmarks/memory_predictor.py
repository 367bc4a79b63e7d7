"""P10: the memory of a training step, predicted against measured, beside what others estimate.

Each configuration runs in a fresh process. Measured is the growth of torch's CPU allocator during a step: the allocator
reports every allocation and release, oneDNN's scratch included, to torch's profiler; the growth is the largest sum of
them. Resident memory is the process's VmHWM; interpreter and libraries after a tiny step are its measured baseline.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict

import torch
from harness import write_results
from torchinfo import summary

from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.device import reduced_dtype
from convscope.memory.predict import predict_memory
from convscope.models import build_model, build_shapes
from convscope.models.saved import channels_last
from convscope.models.surgery.head import freeze_all_but_head
from convscope.run.measured_step import measure_step

GRAY, COLOR, PHOTO = (1, 28, 28), (3, 32, 32), (3, 224, 224)
MIXED, CHECKPOINTED, FROZEN, ACCUMULATED = "mixed precision", "checkpointed", "frozen", "accumulated"
CONFIGURATIONS: tuple[tuple[str, tuple[int, int, int], int, str, tuple[str, ...]], ...] = (
    ("mlp", GRAY, 64, "adam", ()),
    ("mlp", GRAY, 1024, "sgd", ()),
    ("cnn-small", GRAY, 64, "sgd", ()),
    ("cnn-small", GRAY, 1024, "adam", ()),
    ("cnn", GRAY, 64, "adam", ()),
    ("cnn", GRAY, 256, "adam", ()),
    ("cnn", GRAY, 256, "adam", (MIXED,)),
    ("cnn-dropout", GRAY, 64, "adam", ()),
    ("lenet5", GRAY, 64, "adam", ()),
    ("lenet5", GRAY, 512, "sgd", ()),
    ("cats-cnn", (1, 200, 200), 16, "adam", ()),
    ("cifar-base", COLOR, 64, "adam", ()),
    ("cifar-base", COLOR, 64, "adam", (CHECKPOINTED,)),
    ("cifar-inception", COLOR, 64, "adam", ()),
    ("cifar-residual", COLOR, 64, "sgd", ()),
    ("cifar-residual", COLOR, 16, "sgd", (ACCUMULATED,)),
    ("auto", COLOR, 128, "adam", ()),
    ("auto", COLOR, 128, "adam", (CHECKPOINTED,)),
    ("alexnet-2012", PHOTO, 16, "sgd", ()),
    ("alexnet", PHOTO, 16, "sgd", ()),
    ("vgg16", (3, 200, 200), 4, "sgd", (FROZEN,)),
    ("vgg16", (3, 200, 200), 4, "sgd", ()),
    ("mobilenetv2_100", PHOTO, 8, "adam", ()),
    ("mobilenetv2_100", PHOTO, 8, "adam", (CHECKPOINTED,)),
    ("resnet18", PHOTO, 8, "adam", ()),
    ("resnet18", PHOTO, 8, "adam", (FROZEN,)),
    ("resnet18", PHOTO, 8, "adam", (CHECKPOINTED,)),
    ("resnet18", PHOTO, 8, "adam", (MIXED,)),
    ("resnet50", PHOTO, 4, "sgd", ()),
    ("resnet50", PHOTO, 8, "sgd", (CHECKPOINTED,)),
    ("efficientnet_b0", PHOTO, 4, "adam", ()),
    ("efficientnet_b0", PHOTO, 4, "adam", (CHECKPOINTED,)),
    ("densenet121", PHOTO, 4, "adam", ()),
    ("densenet121", PHOTO, 4, "adam", (CHECKPOINTED,)),
    ("convnext_tiny", PHOTO, 4, "adam", ()),
    ("convnext_tiny", PHOTO, 4, "adam", (CHECKPOINTED,)),
    ("inception_v3", (3, 299, 299), 4, "adam", (FROZEN,)),
)
CLASSES = 10


def main() -> None:
    rows, raw = [], []
    for name, shape, batch_size, optimizer, how in CONFIGURATIONS:
        frozen, model = FROZEN in how, ModelConfig(name=name)
        train = TrainConfig(
            optimizer=optimizer,  # type: ignore[arg-type]
            accumulate=4 if ACCUMULATED in how else 1,
        )
        compute = ComputeConfig(
            precision="auto" if MIXED in how else "float32", checkpoint_activations=CHECKPOINTED in how
        )
        if MIXED in how and reduced_dtype(torch.device("cpu"), "auto") is None:
            continue  # this processor has no 16-bit arithmetic to be measured
        classes = _classes(name)
        measured = measure_step(
            model, shape, classes, batch_size=batch_size, train=train, compute=compute, frozen=frozen
        )
        network = channels_last(build_shapes(model, shape, _classes(name)))
        if frozen:
            freeze_all_but_head(network)
        memory = predict_memory(network, shape, batch_size=batch_size, train=train, compute=compute).memory
        held = memory.weights_bytes + memory.buffers_bytes + memory.optimizer_bytes
        entry = {
            "model": name,
            "input_shape": shape,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "how": how,
            "predicted_growth_bytes": memory.training_peak_bytes - held,
            "predicted_peak_bytes": memory.training_peak_bytes,
            "predicted_resident_bytes": measured.baseline_bytes + memory.training_peak_bytes,
            "torchinfo_bytes": _torchinfo_bytes(model, shape, batch_size),
            "four_times_parameters_bytes": 4 * memory.weights_bytes,
            "measured": asdict(measured),
        }
        raw.append(entry)
        growth, peak = measured.step_growth_bytes, measured.training_peak_bytes
        entry["errors"] = {
            "growth": _error(entry["predicted_growth_bytes"], growth),
            "peak": _error(memory.training_peak_bytes, peak),
            "resident": _error(entry["predicted_resident_bytes"], measured.process_peak_bytes),
            "torchinfo": _error(entry["torchinfo_bytes"], peak),
            "parameters": _error(entry["four_times_parameters_bytes"], peak),
        }
        setting = f"{name} {'x'.join(map(str, shape))}, {batch_size}, {', '.join((optimizer, *how))}"
        rows.append(
            [setting, *(f"{entry[key] / 1e6:,.1f}" for key in ("predicted_growth_bytes",)), f"{growth / 1e6:,.1f}"]
        )
        rows[-1] += [f"{value:+.1%}" for value in entry["errors"].values()]
        print(rows[-1], flush=True)
    for label, of in (("median of the sizes", statistics.median), ("largest size", max)):
        errors = [of([abs(entry["errors"][key]) for entry in raw]) for key in raw[0]["errors"]]
        rows.append([label, "", "", *(f"{error:.1%}" for error in errors)])
    write_results(
        "memory_predictor",
        f"Memory of a training step, predicted against measured: {len(raw)} configurations",
        "Growth: of torch's CPU allocator during the second step of a fresh process, from what it reports to torch's "
        "profiler, in MB. Peak: the same with weights, buffers and optimizer. Resident: VmHWM after the first step "
        "against the predicted peak and a baseline measured before the network was built. torchinfo (its estimated "
        "total size) and four times the parameters are compared with the peak. Errors are "
        "(predicted - measured) / measured.",
        (
            "network, input, batch, optimizer",
            "predicted",
            "measured",
            "growth",
            "peak",
            "resident",
            "torchinfo",
            "4 x p",
        ),
        rows,
        {"configurations": raw},
    )


def _classes(name: str) -> int:
    return 2 if name == "cats-cnn" else CLASSES


def _torchinfo_bytes(model: ModelConfig, shape: tuple[int, int, int], batch_size: int) -> int:
    """Return what torchinfo shows as the estimated total size."""
    network = build_model(model, shape, _classes(model.name))
    found = summary(network, (batch_size, *shape), verbose=0, mode="train", device=torch.device("cpu"))
    return int(found.total_input + found.total_output_bytes + found.total_param_bytes)


def _error(predicted: int, measured: int) -> float:
    return predicted / measured - 1


if __name__ == "__main__":
    main()
