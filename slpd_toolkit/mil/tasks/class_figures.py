"""Figures for classification: ROC curves, calibration, confusion matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_curve

from slpd_toolkit.core.figures.number_format import number, short
from slpd_toolkit.core.figures.pictures import GREY, panels
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.tasks.figure_sections import CaptionedFigure, FigureSection
from slpd_toolkit.mil.tasks.label_metrics import auc_name
from slpd_toolkit.mil.tasks.metrics import expected_calibration_error, reliability
from slpd_toolkit.mil.tasks.predictions import by_aggregator, times_tested

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from slpd_toolkit.core.figures.pictures import Look, Picture
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray
    from slpd_toolkit.mil.tasks.kinds.classification import Classification
    from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

FALSE_POSITIVE_RATES = np.linspace(0, 1, 201)
QUADRATIC_KAPPA = (
    "Chance-corrected agreement; disagreement is weighted by the squared distance between classes. 0 is chance, 1 is "
    "perfect."
)
_ROC = (
    "Positive class: {}. Line: mean over test folds of the true positive rate at each false positive rate; band: ± 1 "
    "standard deviation over folds. AUC: mean over folds."
)
_MACRO_ROC = (
    "Each class against the rest, mean over classes, then over test folds; band: ± 1 standard deviation over folds. "
    "AUC: macro one-vs-rest, mean over folds."
)
_BINARY_CALIBRATION = "Predictions of all test folds, in ten bins of probability"
_TOP_CALIBRATION = "Probability of the most probable class against its accuracy, all test folds, in ten bins"
_CALIBRATION = (
    "; marker area is proportional to the number of predictions. Perfectly calibrated probabilities lie on the dotted "
    "line; below it they are too high. ECE: expected calibration error of the most probable class. Heads are trained "
    "with equal class weights, which shifts probabilities when classes are unbalanced."
)
_SCALED = (
    "The same with the logits of each fold divided by its temperature, which was fitted on the validation part of the "
    "fold. Temperatures change neither the order within a fold nor the predicted classes."
)
_CONFUSION = (
    "Number of slides, and percentage of the true class (rows sum to 100 %). A slide tested in several folds counts "
    "once, divided equally among them."
)
_WIDE_CLASSES = 5
_ROOMY_CLASSES = 10
_MOST_CLASSES = 40
"""With more classes, there are neither separate panels nor names in the confusion matrix, because they would not be
legible."""
_DARK_SHARE = 0.55
_LABEL_ROOM = 24


def roc_section(results: Sequence[ModelOutputs], task: Classification, styles: Mapping[str, Look]) -> FigureSection:
    """Draw ROC curves; with 3 to 40 classes also one-vs-rest curves of each class, per aggregator."""
    groups = by_aggregator(results)
    drawn = draw_roc(groups, task, styles)
    if len(task.classes) == 2:
        return FigureSection("ROC curves", [CaptionedFigure(drawn, _ROC.format(task.classes[1]))])
    if len(task.classes) > _MOST_CLASSES:
        return FigureSection("ROC curves", [CaptionedFigure(drawn, _MACRO_ROC)])
    of_classes = [
        CaptionedFigure(
            draw_class_rocs(f"roc-classes-{name}", group, task, styles),
            "Mean over test folds; band: ± 1 standard deviation over folds.",
            f"Each class against the rest, {name}",
        )
        for name, group in groups.items()
    ]
    return FigureSection("ROC curves", [CaptionedFigure(drawn, _MACRO_ROC), *of_classes])


def calibration_section(
    results: Sequence[ModelOutputs], task: Classification, styles: Mapping[str, Look]
) -> FigureSection:
    """Draw calibration plots."""
    what = _BINARY_CALIBRATION if len(task.classes) == 2 else _TOP_CALIBRATION
    groups = by_aggregator(results)
    figures = [CaptionedFigure(draw_calibration(groups, task, styles), f"{what}{_CALIBRATION}")]
    if all(result.scaled_folds for result in results):
        drawn = draw_calibration(groups, task, styles, scaled=True)
        figures.append(CaptionedFigure(drawn, _SCALED, "After temperature scaling"))
    return FigureSection("Calibration", figures)


def confusion_section(results: Sequence[ModelOutputs], task: Classification) -> FigureSection:
    """Draw the confusion matrices of each aggregator."""
    return FigureSection(
        "Confusion",
        [
            CaptionedFigure(draw_confusion(f"confusion-{name}", group, task), _CONFUSION, name, name)
            for name, group in by_aggregator(results).items()
        ],
    )


def label_roc_section(results: Sequence[ModelOutputs], task: MultiLabel, styles: Mapping[str, Look]) -> FigureSection:
    """Draw a ROC curve per label, one figure per aggregator."""
    figures = [
        CaptionedFigure(
            _draw_label_rocs(f"roc-labels-{name}", group, task, styles),
            "Mean over test folds; band: ± 1 standard deviation over folds. Slides without the label do not count.",
            name,
            name,
        )
        for name, group in by_aggregator(results).items()
    ]
    return FigureSection("ROC curves", figures)


def _draw_label_rocs(
    name: str, results: Sequence[ModelOutputs], task: MultiLabel, styles: Mapping[str, Look]
) -> Picture:
    def fill(index: int, axes: Axes) -> None:
        for result in results:
            curves = []
            for fold in result.folds:
                targets = task.targets[fold.rows, index]
                known = targets >= 0
                curve = roc(targets[known] == 1, fold.outputs[known, index]) if known.any() else None
                curves += [] if curve is None else [curve]
            area, _ = mean_and_sd(result.values[auc_name(task.outputs[index])])
            drawn = np.array(curves).reshape(-1, len(FALSE_POSITIVE_RATES))
            _draw_mean_roc(axes, drawn, styles[result.model], f"AUC {number(area)}")
        _finish_roc(axes, short(task.outputs[index]))

    title = f"ROC curves of each label, {results[0].aggregator}; bands are ± 1 sd over folds"
    return panels(name, title, len(task.outputs), fill)


def roc(positive: BoolArray, scores: FloatArray) -> FloatArray | None:
    """Return the true positive rate at each of `FALSE_POSITIVE_RATES`, (201,); None if a class has no cases.

    The curve is interpolated linearly between scikit-learn's points; at vertical steps the upper end is used.
    """
    if positive.all() or not positive.any():
        return None
    false_positive, true_positive, _ = roc_curve(positive, scores)
    interpolated: FloatArray = np.interp(FALSE_POSITIVE_RATES, false_positive, true_positive)
    return interpolated


def fold_rocs(result: ModelOutputs, task: Classification, classes: Sequence[int]) -> FloatArray:
    """Return the one-vs-rest ROC curve of each fold, averaged over `classes`: (F, 201).

    Folds in which any of these curves is undefined are left out.
    """
    curves = []
    for fold in result.folds:
        targets = task.targets[fold.rows]
        of_class = [roc(targets == index, fold.outputs[:, index]) for index in classes]
        known = [curve for curve in of_class if curve is not None]
        if len(known) == len(classes):
            curves.append(np.mean(known, axis=0))
    return np.array(curves).reshape(-1, len(FALSE_POSITIVE_RATES))


def draw_roc(groups: Mapping[str, Sequence[ModelOutputs]], task: Classification, styles: Mapping[str, Look]) -> Picture:
    """Draw one panel per aggregator: mean ROC curve over folds with a band of one standard deviation."""
    binary = len(task.classes) == 2
    classes = [1] if binary else list(range(len(task.classes)))
    names = list(groups)

    def fill(index: int, axes: Axes) -> None:
        for result in groups[names[index]]:
            mean, _ = mean_and_sd(result.values["auc"])
            _draw_mean_roc(axes, fold_rocs(result, task, classes), styles[result.model], f"AUC {number(mean)}")
        _finish_roc(axes, short(names[index]))

    what = f"of {task.classes[1]} against {task.classes[0]}" if binary else "of one class against the rest, mean"
    return panels("roc", f"ROC curves {what}; bands are ± 1 sd over folds", len(names), fill)


def draw_class_rocs(
    name: str, results: Sequence[ModelOutputs], task: Classification, styles: Mapping[str, Look]
) -> Picture:
    """Draw one one-vs-rest panel per class, for the models with one aggregator."""

    def fill(index: int, axes: Axes) -> None:
        for result in results:
            curves = fold_rocs(result, task, [index])
            areas = np.trapezoid(curves, FALSE_POSITIVE_RATES, axis=1) if len(curves) else np.array([np.nan])
            _draw_mean_roc(axes, curves, styles[result.model], f"AUC {number(float(areas.mean()))}")
        _finish_roc(axes, f"{short(task.classes[index])} against the rest")

    title = f"ROC curves of each class against the rest, {results[0].aggregator}; bands are ± 1 sd over folds"
    return panels(name, title, len(task.classes), fill)


def draw_calibration(
    groups: Mapping[str, Sequence[ModelOutputs]],
    task: Classification,
    styles: Mapping[str, Look],
    *,
    scaled: bool = False,
) -> Picture:
    """Draw one panel per aggregator: observed against predicted frequency, all test predictions pooled.

    Args:
        groups: Results by aggregator.
        task: The classes.
        styles: Drawing style of each model.
        scaled: Draw the predictions after temperature scaling.
    """
    binary = len(task.classes) == 2
    names = list(groups)

    def fill(index: int, axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for result in groups[names[index]]:
            look = styles[result.model]
            folds = result.scaled_folds if scaled else result.folds
            targets = np.concatenate([task.targets[fold.rows] for fold in folds])
            outputs = np.concatenate([fold.outputs for fold in folds])
            if binary:
                curve = reliability(targets == 1, outputs[:, 1])
            else:
                curve = reliability(targets == outputs.argmax(axis=1), outputs.max(axis=1))
            error = expected_calibration_error(targets, outputs)
            label = f"{look.label} (ECE {number(error)})"
            axes.plot(
                curve.predicted, curve.observed, color=look.colour, linestyle=look.line, linewidth=1.3, label=label
            )
            areas = 10 + 90 * curve.counts / curve.counts.max()
            axes.scatter(curve.predicted, curve.observed, areas, color=look.colour, marker=look.marker, alpha=0.7)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"predicted probability of {short(task.classes[1])}" if binary else "predicted probability")
        axes.set_ylabel(f"observed share of {short(task.classes[1])}" if binary else "accuracy")
        axes.set_title(short(names[index]))
        axes.legend(loc="upper left")

    after = " after temperature scaling" if scaled else ""
    title = f"Calibration{after}: observed against predicted frequency"
    return panels("calibration-scaled" if scaled else "calibration", title, len(names), fill)


def confusion(result: ModelOutputs, task: Classification) -> FloatArray:
    """Return the (C, C) confusion matrix, true classes in rows. A slide tested in r folds counts 1/r in each."""
    targets = np.concatenate([task.targets[fold.rows] for fold in result.folds])
    outputs = np.concatenate([fold.outputs for fold in result.folds])
    predicted = task.predicted(outputs)
    matrix = np.zeros((len(task.classes), len(task.classes)))
    np.add.at(matrix, (targets, predicted), 1 / times_tested(result))
    return matrix


def draw_confusion(name: str, results: Sequence[ModelOutputs], task: Classification) -> Picture:
    """Draw one panel per model with one aggregator: counts and fractions of the true class.

    With many classes, cells show only counts above 0; color encodes the fraction. With more than 40, only color is
    shown, and classes are numbered.
    """
    labels = [short(each) for each in task.classes]
    numbered = len(labels) > _MOST_CLASSES
    crowded, packed = (len(labels) > most for most in (_WIDE_CLASSES, _ROOMY_CLASSES))

    def fill(index: int, axes: Axes) -> None:
        matrix = confusion(results[index], task)
        totals = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in [] if numbered else np.ndenumerate(shares):
            slides = _cases(float(matrix[row, column]))
            if packed and not share:
                continue
            axes.text(
                column,
                row,
                slides if packed else f"{slides}\n{100 * share:.0f} %",
                ha="center",
                va="center",
                fontsize=6 if packed else 7 if crowded else 9,
                color="white" if share > _DARK_SHARE else "black",
            )
        slanted = sum(map(len, labels)) > _LABEL_ROOM and not packed
        rotation = 90 if packed else 30 if slanted else 0
        if not numbered:
            axes.set_xticks(range(len(labels)), labels, rotation=rotation, ha="right" if slanted else "center")
            axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(short(results[index].model))

    title = f"Confusion matrices, {results[0].aggregator}: slides, and share of the true class"
    return panels(name, title, len(results), fill, columns=2 if crowded else 3)


def _draw_mean_roc(axes: Axes, curves: FloatArray, look: Look, area: str) -> None:
    label = f"{look.label} ({area})"
    if not len(curves):
        axes.plot([], [], color=look.colour, linestyle=look.line, label=label)
        return
    mean, sd = curves.mean(axis=0), curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(curves.shape[1])
    # The curve starts in the corner; its mean at rate 0 is the mean height of the first step.
    x, y = np.concatenate([[0], FALSE_POSITIVE_RATES]), np.concatenate([[0], mean])
    axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.5, label=label)
    low, high = np.clip(mean - sd, 0, 1), np.clip(mean + sd, 0, 1)
    axes.fill_between(FALSE_POSITIVE_RATES, low, high, color=look.colour, alpha=0.13, linewidth=0)


def _finish_roc(axes: Axes, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("false positive rate (1 − specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.set_title(title)
    axes.legend(loc="lower right")


def _cases(count: float) -> str:
    return f"{count:.0f}" if abs(count - round(count)) < 1e-9 else f"{count:.1f}"
