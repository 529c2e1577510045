"""The figures of the model card, from targets and probabilities. NumPy alone."""

import numpy as np


def roc_auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a random blast scores above a random normal cell; ties count half (Mann-Whitney U)."""
    blasts, normals = scores[targets == 1], scores[targets == 0]
    above = (blasts[:, None] > normals[None, :]).mean()
    ties = (blasts[:, None] == normals[None, :]).mean()
    return float(above + ties / 2)


def figures(targets: np.ndarray, groups: list[str], probabilities: np.ndarray) -> dict:
    """Balanced accuracy, ROC AUC, confusion matrix (row = truth, column = answer) and accuracy per subject group."""
    answers = probabilities.argmax(axis=1)
    confusion = np.zeros((2, 2), dtype=int)
    np.add.at(confusion, (targets, answers), 1)
    recall = confusion.diagonal() / confusion.sum(axis=1)
    names = np.array(groups)
    per_group = {}
    for target in (0, 1):
        for name in sorted(set(names[targets == target])):
            members = (names == name) & (targets == target)
            per_group[str(name)] = {
                "class": ["hem", "all"][target],
                "cells": int(members.sum()),
                "accuracy": round(float((answers[members] == target).mean()), 4),
                "mean_blast_probability": round(float(probabilities[members, 1].mean()), 4),
            }
    return {
        "cells": int(len(targets)),
        "balanced_accuracy": round(float(recall.mean()), 4),
        "accuracy": round(float((answers == targets).mean()), 4),
        "sensitivity": round(float(recall[1]), 4),
        "specificity": round(float(recall[0]), 4),
        "roc_auc": round(roc_auc(targets, probabilities[:, 1]), 4),
        "confusion": confusion.tolist(),
        "per_group": per_group,
    }


def describe(result: dict) -> str:
    """The figures as the lines that a person reads in a terminal."""
    (normal_right, normal_wrong), (blast_wrong, blast_right) = result["confusion"]
    lines = [
        f"{result['cells']} cells: balanced accuracy {result['balanced_accuracy']:.3f}, ROC AUC {result['roc_auc']:.3f}",
        f"  normal cells: {normal_right} right, {normal_wrong} called blasts",
        f"  blasts:       {blast_right} right, {blast_wrong} called normal",
    ]
    for name, group in result["per_group"].items():
        lines.append(f"  {group['class']} {name:<16} {group['cells']:4d} cells, accuracy {group['accuracy']:.3f}")
    return "\n".join(lines)
