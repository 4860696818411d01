"""Training: a configuration and a prepared dataset → a trained model, its checkpoints and its curves."""

from hotrow.training.batches import data_manifest, endless, evaluation_loader, training_loader
from hotrow.training.building import Columns, Model, build, build_dense, build_tables
from hotrow.training.config import RunConfig
from hotrow.training.curves import tensorboard_available
from hotrow.training.evaluation import evaluate
from hotrow.training.exporting import Export, export_weights, opened_for_export
from hotrow.training.history import History, read_history
from hotrow.training.measuring import MEASURED_FILE, PartTimes, comparison_rows, measured, save_measured
from hotrow.training.optimization import lr_factor
from hotrow.training.progress import Progress, Silence, TerminalProgress
from hotrow.training.rebalancing import rebalance
from hotrow.training.starting import Inheritance, StartFrom
from hotrow.training.trainer import Trainer, TrainingResult, weighted_loss
from hotrow.training.using import LoadedModel, evaluate_checkpoint, load_model

__all__ = [
    "MEASURED_FILE",
    "Columns",
    "Export",
    "History",
    "Inheritance",
    "LoadedModel",
    "Model",
    "PartTimes",
    "Progress",
    "RunConfig",
    "Silence",
    "StartFrom",
    "TerminalProgress",
    "Trainer",
    "TrainingResult",
    "build",
    "build_dense",
    "build_tables",
    "comparison_rows",
    "data_manifest",
    "endless",
    "evaluate",
    "evaluate_checkpoint",
    "evaluation_loader",
    "export_weights",
    "load_model",
    "lr_factor",
    "measured",
    "opened_for_export",
    "read_history",
    "rebalance",
    "save_measured",
    "tensorboard_available",
    "training_loader",
    "weighted_loss",
]
