"""Taking a trained net elsewhere: folders with a model that needs no neocog, and reading them again.

folder = export("runs/photos", to="onnx").folder
load(folder).predict("new.jpg")
"""

from .portable import FILES, Exported, is_exported, load
from .writing import export

__all__ = ["FILES", "Exported", "export", "is_exported", "load"]
