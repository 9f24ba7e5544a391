"""Packs: many LoRA trials in one forward and backward over one frozen base.

| module | idea |
| --- | --- |
| parameters | all adapters as rows of one [K, P] matrix, and their A/B views |
| base | the frozen base with K adapters on its linear modules, and logits at answer positions only |
| graphed | its forwards and backwards as CUDA graphs (`rayul/unlearn/compiled.py`: its blocks through torch.compile) |
| lines | the examples of a set as tensors of one shape |
| slot | one trial in a pack: its own rows, loss, optimiser and end |
| scorer | a fixed set of rows, scored by several adapters in one forward |
| saved | saved adapters as rows of such a matrix |
| step | one step of it: the gradients that its rule asks for, one micro-batch at a time |
| state | that trial between two steps, on disk |
| pack | join, train, evaluate, leave |
| packs | all trials of a device, in one pack or in smaller ones that take turns |
| packable | which trials may share a pack |
| lanes, widths | who shares a forward, and how many may without a bit of them changing |
| throughput, compiling | how fast packs train here, compiled or not |
| known_rates | the same, measured once for each machine and shape |
"""

from rayul.unlearn.pack.pack import Pack
from rayul.unlearn.pack.packable import Shape, packable
from rayul.unlearn.pack.packs import Packs, Report

__all__ = ["Pack", "Packs", "Report", "Shape", "packable"]
